"""Two real replicas behind the real door, with an engine that computes nothing."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    """In a process with a Ray of its own: an endpoint of the other tests may be up in this one's."""
    # Imported, not run: what replicas are to run must have a module's name to be pickled by value.
    command = [sys.executable, "-c", "from tests.serving import two_replicas; two_replicas.main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_prompts_that_begin_alike_go_to_one_replica_and_both_get_work(found):
    for answered in found["by_prefix"]:
        assert len(set(answered)) == 1, found["by_prefix"]
    assert len({answered[0] for answered in found["by_prefix"]}) == 2


def test_when_one_is_killed_the_other_answers_at_once_and_it_is_replaced(found):
    doomed = found["by_prefix"][0][0]
    (other,) = {answered[0] for answered in found["by_prefix"]} - {doomed}
    assert doomed not in found["after"]
    assert other in found["after"]
    assert all(isinstance(pid, int) for pid in found["after"]), "no request fails that another replica can answer"
    assert found["seconds"] < 20
    assert found["ready"] == 200
    assert len(found["again"]) == 2 and other in found["again"] and doomed not in found["again"]


def test_logs_of_door_and_replicas_are_json_lines_with_the_reason_of_what_failed(found):
    assert found["crash"] == "HTTP 500"
    assert any("door" in name for name in found["logs"]) and any("model-m" in name for name in found["logs"])
    lines = {name: [json.loads(line) for line in text] for name, text in found["logs"].items()}
    for name, records in lines.items():
        assert all({"levelname", "asctime", "message"} <= record.keys() for record in records), name
    told = [record for name, records in lines.items() if "door" in name for record in records]
    assert any(record["levelname"] == "ERROR" and "/root/weights" in json.dumps(record) for record in told)
