"""`raymill cluster` from up to down, as its help says it, with real work in between."""

import json
import os
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from core import manifest
from core.token_set import TokenSet
from tests.data_engine.web import HOST, Web, links

# Beside other work on two cores a job takes minutes to start; these runs belong to the long ones.
pytestmark = pytest.mark.faults


def processes(text):
    """Processes that carry a text in their arguments."""
    return [p for p in psutil.process_iter(["cmdline"]) if any(text in a for a in p.info["cmdline"] or [])]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def crawl_settings(web, output, **more):
    return {
        "output": str(output),
        "seeds": [f"http://{HOST}/"],
        "connect_to": {HOST: f"127.0.0.1:{web.port}"},
        "delay_seconds": 0.1,
        **more,
    }


def test_a_stage_runs_as_a_job_and_a_second_submit_reuses_its_artifact(call):
    rows = [
        {"id": f"{n:032x}", "text": f"number {n} of some words", "source": "s", "language": "en"} for n in range(60)
    ]
    rows = [{**row, "url": "u", "date": "", "language_score": 0.9} for row in rows]
    (call.folder / "documents").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), call.folder / "documents" / "part.parquet")
    settings = {"output": "tokens", "documents": "documents", "vocab_size": 300, "validation_fraction": 0.2}
    (call.folder / "tokenize.yaml").write_text(yaml.safe_dump(settings))

    first = call("submit", "--", "data", "tokenize", "tokenize.yaml")
    assert first.returncode == 0, first.stderr
    name = first.stdout.split()[1]
    assert name.startswith("data-tokenize-")
    assert f"follow it: raymill cluster logs -f {name}" in first.stdout
    followed = call("logs", "-f", name)
    assert followed.returncode == 0, followed.stderr + followed.stdout
    assert "data.tokenize" in followed.stdout
    assert "done: tokens" in followed.stdout
    assert manifest.require(call.folder / "tokens", "data.tokenize").counts
    assert len(TokenSet(call.folder / "tokens").index) == 60

    again = call("submit", "--wait", "--", "data", "tokenize", "tokenize.yaml")
    assert again.returncode == 0
    assert again.stdout.startswith(f"submitted: {name}-2\n")
    assert "up to date, reused: tokens" in again.stdout
    listed = [line for line in call("jobs").stdout.splitlines() if "data-tokenize" in line]
    assert [line.split()[:2] for line in listed] == [[name, "succeeded"], [f"{name}-2", "succeeded"]]
    assert all(line.endswith("data tokenize tokenize.yaml") for line in listed)


def test_a_stopped_job_goes_on_where_it_was(call):
    web = Web({"/": links(*(f"/{n}" for n in range(40))), **{f"/{n}": links() for n in range(40)}})
    with web.serve():
        (call.folder / "crawl.yaml").write_text(yaml.safe_dump(crawl_settings(web, call.folder / "crawl")))
        first = call("submit", "--", "data", "crawl", "crawl.yaml")
        name = first.stdout.split()[1]
        wait_for(lambda: len(web.paths) > 5)
        assert call("submit", "--", "data", "crawl", "crawl.yaml").stdout.startswith(f"already running: {name}\n")
        assert [line.split()[1] for line in call("jobs").stdout.splitlines() if name in line] == ["running"]
        stopped = call("stop", name)
        assert (stopped.returncode, stopped.stdout) == (0, f"{name}: stopped\n")
        assert call("stop", name).stdout == f"{name}: stopped\n", "stopping twice is no mistake"
        asked = len(web.paths)
        assert asked < 41
        assert not (call.folder / "crawl" / "manifest.json").exists()
        assert call("logs", "-f", name).returncode == 1, "a stopped job did not succeed"
        again = call("submit", "--wait", "--", "data", "crawl", "crawl.yaml", "--set", "delay_seconds=0")
    assert again.returncode == 0, again.stdout + again.stderr
    assert manifest.require(call.folder / "crawl").counts["fetched"] == 41
    assert len(web.paths) <= 42, "only what was under way when it stopped may be fetched twice"


def test_address_auto_finds_the_local_cluster(call):
    (call.folder / "lines.jsonl").write_text('{"text": "a"}\n')
    settings = {"output": "tokens", "documents": "documents", "vocab_size": 300, "validation_fraction": 0.2}
    (call.folder / "auto.yaml").write_text(yaml.safe_dump({**settings, "output": "auto"}))
    answer = call.raymill("data", "tokenize", "auto.yaml", "--address", "auto")
    assert answer.returncode == 0, answer.stderr
    address = json.loads(call.state.read_text())["address"]
    assert f"connected to the Ray cluster at {address}" in answer.stderr


def test_second_up_finds_the_first(call):
    assert call("up", "--local").stdout.startswith("already running: Ray at 127.0.0.1")


def test_down_takes_the_cluster_and_its_jobs_and_nothing_else(call):
    temporary = json.loads(call.state.read_text())["temporary"]
    log = next(path for path in os.scandir(temporary) if path.is_dir()).path
    reader = psutil.Popen(["tail", "-f", "/dev/null", "--pid", str(os.getpid()), f"{log}/absent"], stderr=-3)
    web = Web({"/": links(*(f"/{n}" for n in range(400)))})
    try:
        with web.serve():
            (call.folder / "long.yaml").write_text(yaml.safe_dump(crawl_settings(web, call.folder / "long")))
            call("submit", "--", "data", "crawl", "long.yaml")
            wait_for(lambda: len(web.paths) > 1)
            down = call("down")
            assert (down.returncode, down.stdout) == (0, "stopped\n")
            wait_for(lambda: not processes("long.yaml"), 20)
        assert processes(temporary) == [reader], "what only reads the cluster's logs stays; all of Ray is gone"
    finally:
        reader.kill()
        reader.wait()
    assert not call.state.exists()
    again = call("down")
    assert (again.returncode, again.stdout) == (0, "no local cluster is running\n")
    answer = call("jobs")
    assert answer.returncode == 2
    assert "start one with 'raymill cluster up --local'" in answer.stderr
