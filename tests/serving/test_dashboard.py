import json
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from serving import dashboard


def test_the_file_is_what_the_source_renders():
    assert dashboard.FILE.read_text() == dashboard.render()
    board = json.loads(dashboard.render())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 12
    assert all(
        target["expr"].count("(") == target["expr"].count(")") for p in board["panels"] for target in p["targets"]
    )


def test_every_metric_that_it_asks_for_has_a_name_in_the_door_or_in_vllm():
    """vLLM is read, not imported: that costs 20 s."""
    sources = [
        (Path(find_spec("vllm").origin).parent / "v1" / folder).rglob("*.py") for folder in ("metrics", "spec_decode")
    ]
    text = "".join(file.read_text() for files in sources for file in files)
    text += "".join(file.read_text() for file in dashboard.FILE.parent.glob("*.py") if file.name != "dashboard.py")
    for name in dashboard.metrics():
        plain = name.removesuffix("_total").removesuffix("_bucket")
        by_suffix = plain.removeprefix("raymill_").removesuffix("_seconds")
        assert f'"{plain}"' in text or f'"{by_suffix}"' in text, name


@pytest.mark.slow
def test_every_metric_that_it_asks_for_is_exported_by_a_running_endpoint(endpoint):
    body = {"model": endpoint.model_id, "prompt": "a b a b a", "max_tokens": 8, "ignore_eos": True, "stream": True}
    for _ in range(2):
        assert httpx.post(f"{endpoint.url}/completions", json=body, headers=endpoint.bearer, timeout=60).is_success
    text = httpx.get(f"{endpoint.root}/metrics", headers=endpoint.bearer, timeout=60).text
    exported = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    # nobody has left, so no series of it has begun
    missing = dashboard.metrics() - exported - {"raymill_clients_left_total"}
    assert not missing
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(set(heads)) == len(heads)
