"""One real local cluster for the file: jobs are sent, followed, repeated and stopped as a user does it."""

import psutil
import pytest

pytestmark = pytest.mark.faults


def test_job_runs_where_it_was_submitted_and_its_output_comes_back(call):
    (call.folder / "recipe.yaml").write_text("name: x\noutput: runs\nstages: {a: {use: data.nothing}}\n")
    job = call("submit", "--wait", "--", "run", "recipe.yaml")
    assert job.returncode == 1, "the job's failure is the command's"
    assert "recipe.yaml: stages.a.use: 'data.nothing' is no stage" in job.stdout
    assert "the job failed" in job.stderr
    name = job.stdout.split()[1]
    assert call("logs", name).stdout in job.stdout.partition("\n")[2]
    assert name in call("jobs").stdout


def test_same_command_is_one_job_while_it_runs_and_stops_for_good(call):
    recipe = """
name: waits
output: runs
services: {never: {command: [python, -c, "import time; time.sleep(300)"], ready: "http://127.0.0.1:9/", stages: [a], start_seconds: 300}}
stages: {a: {use: data.crawl, seeds: ["http://example.invalid/"]}}
"""  # noqa: E501
    (call.folder / "waits.yaml").write_text(recipe)
    first = call("submit", "--", "run", "waits.yaml")
    again = call("submit", "--", "run", "waits.yaml")
    name = first.stdout.split()[1]
    assert first.stdout.startswith("submitted: ")
    assert again.stdout.startswith(f"already running: {name}")
    assert call("stop", name).stdout == f"{name}: stopped\n"
    assert not [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(300)" in " ".join(p.info["cmdline"] or [])]
    third = call("submit", "--", "run", "waits.yaml")
    assert third.stdout.startswith(f"submitted: {name}-2")
    call("stop", f"{name}-2")


def test_unknown_job_is_a_users_mistake(call):
    for verb in ("logs", "stop"):
        answer = call(verb, "nonsense")
        assert answer.returncode == 2
        assert answer.stderr == "raymill: nonsense: the cluster knows no such job; 'raymill cluster jobs' lists them\n"
