"""The local cluster's state file and its refusals; starting and stopping are in test_cluster_commands."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

from cluster import local
from core.errors import RaymillError, UserError


@pytest.fixture
def state(tmp_path, monkeypatch):
    path = tmp_path / "raymill" / "cluster.json"
    path.parent.mkdir()
    monkeypatch.setattr(local, "STATE", path)
    return path


@pytest.fixture
def free_ports():
    with socket.socket() as one, socket.socket() as two:
        for probe in (one, two):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def describe(temporary):
    return json.dumps(
        {"address": "127.0.0.1:1", "dashboard": "http://127.0.0.1:2", "temporary": temporary, "for_endpoint": False}
    )


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"address": 1}', describe("/tmp/raymill-long-gone")])
def test_what_no_longer_runs_is_no_cluster(state, content):
    """A machine that was restarted leaves the file behind."""
    if content is not None:
        state.write_text(content)
    assert local.current() is None
    assert local.down() is False
    assert not state.exists()


def test_down_spares_whoever_only_names_the_folder(state, tmp_path):
    temporary = str(tmp_path / "raymill-abc")
    state.write_text(describe(temporary))
    reader = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", temporary])
    try:
        assert local.current() is None
        assert local.down() is False
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.wait()


@pytest.mark.parametrize("option", ["port", "dashboard_port"])
def test_port_in_use_is_named_before_anything_starts(state, option):
    with socket.socket() as taken, socket.socket() as other:
        for probe in (taken, other):
            probe.bind(("127.0.0.1", 0))
        taken.listen()
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        with pytest.raises(UserError, match=f"--{option.replace('_', '-')} {port}: the port is in use"):
            local.up(**{"port": free, "dashboard_port": free, option: port})
    assert not state.exists()


def test_the_usual_port_is_taken_unless_another_ray_holds_it(free_ports):
    usual, _ = free_ports
    assert local._free_port(usual) == usual
    with socket.socket() as other:
        other.bind(("127.0.0.1", usual))
        other.listen()
        chosen = local._free_port(usual)
        assert chosen != usual
        assert local._is_free(chosen)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_that_is_none_is_a_users_mistake(raymill, port):
    answer = raymill("cluster", "up", "--local", "--port", port)
    assert answer.returncode == 2
    assert answer.stderr.startswith("raymill: cluster up: Invalid value for '--port'")
    assert answer.stderr.count("\n") == 1


def test_only_local_clusters_are_started(raymill):
    answer = raymill("cluster", "up")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "raymill: cluster up: only clusters on this machine can be started so far; add --local\n"


@pytest.mark.slow
def test_a_start_that_fails_leaves_nothing_running(state, monkeypatch, free_ports):
    """Under load the raylet may not come up in time; Ray then leaves the head and the dashboard behind."""
    monkeypatch.setattr(local, "_START_SECONDS", 4.0)
    begun, mkdtemp = [], tempfile.mkdtemp  # pytest's own directory is too long for Ray's sockets (107 bytes)
    monkeypatch.setattr(local.tempfile, "mkdtemp", lambda prefix: begun.append(mkdtemp(prefix=prefix)) or begun[0])
    with pytest.raises(RaymillError, match=r"did not come to an end within 4 s|the dashboard did not come up"):
        local.up(cores=1, port=free_ports[0], dashboard_port=free_ports[1])
    assert len(begun) == 1
    assert local._processes(begun[0]) == []
    assert not state.exists()
    shutil.rmtree(begun[0])
