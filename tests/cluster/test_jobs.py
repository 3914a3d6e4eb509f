"""One real local cluster for the file: jobs are sent, followed, repeated and stopped as a user does it."""

import os
import socket

import psutil
import pytest

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A state folder of its own: a cluster that the developer runs is not touched."""
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}


@pytest.fixture(scope="module")
def call(environment, tmp_path_factory):
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("work")

    def run(*arguments):
        command = [sys.executable, "-m", "raymill", "cluster", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    run.folder = folder
    ports = (str(free_port()), str(free_port()))
    started = run("up", "--local", "--port", ports[0], "--dashboard-port", ports[1])
    assert started.returncode == 0, started.stderr
    yield run
    stopped = run("down")
    assert stopped.stdout == "stopped\n", stopped.stderr


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


def test_second_up_finds_the_first(call):
    assert call("up", "--local").stdout.startswith("already running: Ray at 127.0.0.1")


def test_port_in_use_is_named_before_anything_starts(environment, tmp_path):
    import subprocess
    import sys

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = subprocess.run(
            [sys.executable, "-m", "raymill", "cluster", "up", "--local", "--port", str(port)],
            env={**environment, "XDG_STATE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"raymill: --port {port}: the port is in use")


def test_commands_without_a_cluster_say_how_to_start_one(raymill, tmp_path):
    answer = raymill("cluster", "jobs", env={**os.environ, "XDG_STATE_HOME": str(tmp_path)})
    assert answer.returncode == 2
    assert "start one with 'raymill cluster up --local'" in answer.stderr
