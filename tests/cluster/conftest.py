"""One real local cluster for the folder's tests, with a state folder of its own; it goes whatever happens."""

import os
import socket
import subprocess
import sys

import pytest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """`raymill` in a folder, for one local cluster that a developer's own does not notice."""

    def __init__(self, folder):
        self.folder = folder / "work"
        self.folder.mkdir()
        self.state = folder / "raymill" / "cluster.json"
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder)}
        for name in ("RAY_ADDRESS", "RAYMILL_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            self.environment.pop(name, None)

    def raymill(self, *arguments, **options):
        command = [sys.executable, "-m", "raymill", *arguments]
        given = {"cwd": self.folder, "timeout": 240, **options}
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, **given)

    def __call__(self, *arguments, **options):
        return self.raymill("cluster", *arguments, **options)

    def up(self):
        if not self.state.exists():
            started = self("up", "--local", "--port", str(free_port()), "--dashboard-port", str(free_port()))
            assert started.returncode == 0, started.stderr
            assert started.stdout.startswith("started: Ray at 127.0.0.1:")


@pytest.fixture(scope="package")
def _cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster("down")


@pytest.fixture
def call(_cluster):
    """`call("jobs")` is `raymill cluster jobs`, with a cluster running."""
    _cluster.up()
    return _cluster
