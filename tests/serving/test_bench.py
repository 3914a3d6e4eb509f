import json

import pytest

from core.errors import RaymillError, UserError
from serving.bench import STAGE, BenchConfig
from tests.serving.endpoints import TOKENS, scripted


@pytest.fixture(scope="module")
def endpoint():
    with scripted() as found:
        yield found


def config(url, tmp_path, **more):
    settings = {"url": url, "output": str(tmp_path / "run"), "concurrencies": [1, 3], "requests": 4} | more
    return BenchConfig.model_validate(settings)


def test_every_load_is_put_on_and_every_request_is_in_the_artifact(endpoint, tmp_path):
    url, script = endpoint
    script.bodies.clear()
    manifest, _ = STAGE.execute(config(url, tmp_path, rates=[50], warmup=1, objectives={"ttft_ms": 10_000}))
    assert manifest.counts == {"requests": 12, "answered": 12, "errors": {}}
    rows = [json.loads(line) for line in (tmp_path / "run" / "requests.jsonl").read_text().splitlines()]
    assert [row.get("concurrency", row.get("rate")) for row in rows] == [1] * 4 + [3] * 4 + [50] * 4
    assert all(row["outcome"] == "ok" and row["output_tokens"] == TOKENS for row in rows)
    levels = json.loads((tmp_path / "run" / "levels.json").read_text())
    assert [(level["mode"], level["load"], level["answered"]) for level in levels] == [
        ("concurrency", 1, 4),
        ("concurrency", 3, 4),
        ("rate", 50, 4),
    ]
    assert levels[0]["goodput"] == pytest.approx(levels[0]["requests_per_second"])
    prompts = [tuple(body["prompt"]) for body in script.bodies]
    assert len(set(prompts)) == len(prompts) == 13, "a load must not find the last one's prompts in a cache"
    assert all(body["model"] == "plain" and body["ignore_eos"] and body["stream"] for body in script.bodies)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<svg") == 5
    assert "Time to first token by load" in page
    assert any("concurrency 3:" in line and "4 of 4 answered" in line for line in manifest.metrics["headline"])


def test_failures_are_counted_by_kind_and_shown_with_what_the_endpoint_said(endpoint, tmp_path):
    url, script = endpoint
    script.refuse_after = 1
    try:
        manifest, _ = STAGE.execute(config(url, tmp_path, concurrencies=[2], warmup=1))
    finally:
        script.refuse_after = None
    assert manifest.counts == {"requests": 4, "answered": 0, "errors": {"http_429": 4}}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "queue full" in page
    assert any("4 http_429" in line for line in manifest.metrics["headline"])


def test_a_key_is_sent_and_never_written(endpoint, tmp_path, monkeypatch):
    url, script = endpoint
    key = "sesame-open-0123456789"
    (tmp_path / "key").write_text(f"{key}\n")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for given in ({"key": key}, {"key_file": str(tmp_path / "key")}, {}):
        script.keys.clear()
        STAGE.execute(config(url, tmp_path, concurrencies=[1], requests=1, warmup=1, stream=False, **given))
        assert set(script.keys) == {f"Bearer {key}"}
        assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and key in path.read_text()]


def test_answers_that_come_whole_have_an_end_alone(endpoint, tmp_path):
    settings = {"stream": False, "ignore_eos": False, "body": {"top_p": 0.5}, "concurrencies": [2]}
    manifest, _ = STAGE.execute(config(endpoint[0], tmp_path, **settings))
    [level] = manifest.metrics["levels"]
    assert level["ttft_ms"] is level["tpot_ms"] is level["itl_ms"] is None
    assert level["latency_ms"]["p50"] > 0
    last = endpoint[1].bodies[-1]
    assert last["top_p"] == 0.5
    assert "ignore_eos" not in last and "stream_options" not in last


def test_what_cannot_be_measured_is_one_line(endpoint, tmp_path):
    url = endpoint[0]
    for bad, words in [
        ({"concurrencies": []}, "neither concurrencies nor rates"),
        ({"key": "a", "key_file": "b"}, "both given"),
        ({"concurrencies": [0]}, "greater than or equal to 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            config(url, tmp_path, **bad)
    with pytest.raises(UserError, match="is the key right"):
        STAGE.execute(config(url, tmp_path, key="wrong"))
    with pytest.raises(UserError, match="no OpenAI-compatible endpoint answers there"):
        STAGE.execute(config("http://127.0.0.1:9/v1", tmp_path))
    with pytest.raises(RaymillError, match="does not answer: broken_stream"):
        STAGE.execute(config(url, tmp_path, model="cut_short"))
    with pytest.raises(UserError, match="key_file: nothing"):
        STAGE.execute(config(url, tmp_path, key_file="nothing"))
