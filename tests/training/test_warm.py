"""Processes forked from a warm one: what they say arrives, and nothing outlives its purpose."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from core.errors import RaymillError
from tests.conftest import ROOT
from training import warm

HERE = __name__


def speak(say, words):
    """In the fork."""
    for word in words:
        say(word=word, process=os.getpid(), server=os.getppid(), seen=os.environ.get("SEEN"))


def fail(say, message):
    say(server=os.getppid())
    raise ValueError(message)


def refuse(say):
    raise RaymillError("no use in trying again")


def die(say):
    os.kill(os.getpid(), signal.SIGKILL)


def linger(say):
    say(process=os.getpid())
    time.sleep(60)


def call(key, function, **arguments):
    heard = []
    warm.call(key, HERE, f"{HERE}:{function}", arguments, heard.append)
    return heard


def gone(process, seconds=20.0):
    try:
        psutil.Process(process).wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.fixture
def key():
    made = secrets.token_hex(8)
    yield made
    for path in Path(tempfile.gettempdir()).glob(f"raymill-*-{made}.*"):
        path.unlink()


def test_what_a_fork_says_arrives_in_order_and_its_server_ends_when_all_is_done(key, monkeypatch):
    monkeypatch.setenv("SEEN", "here")
    heard = call(key, "speak", words=["one", "two", "three\n"])
    assert [message["word"] for message in heard] == ["one", "two", "three\n"]
    assert {message["seen"] for message in heard} == {"here"}
    assert os.getpid() not in {heard[0]["process"], heard[0]["server"]}
    assert gone(heard[0]["process"])
    assert gone(heard[0]["server"])


def test_a_failure_is_raised_and_the_next_call_finds_the_same_server(key, capfd):
    heard = []
    with pytest.raises(RuntimeError, match="ValueError: a matrix is singular"):
        warm.call(key, HERE, f"{HERE}:fail", {"message": "a matrix is singular"}, heard.append)
    server = heard[0]["server"]
    assert "Traceback" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="the training process was killed"):
        call(key, "die")
    assert call(key, "speak", words=["after"])[0]["server"] == server
    assert gone(server), "the last call ended well"


def test_a_server_that_was_killed_is_replaced(key):
    heard = []
    with pytest.raises(RuntimeError, match="ValueError"):
        warm.call(key, HERE, f"{HERE}:fail", {"message": ""}, heard.append)
    server = psutil.Process(heard[0]["server"])
    server.kill()
    server.wait(20)
    assert call(key, "speak", words=["once more"])[0]["server"] != heard[0]["server"]


def test_a_refusal_ends_the_server_for_nobody_will_try_again(key):
    with pytest.raises(RuntimeError, match="no use in trying again"):
        call(key, "refuse")
    socket = next(Path(tempfile.gettempdir()).glob(f"raymill-*-{key}.sock"), None)
    deadline = time.monotonic() + 20
    while socket is not None and socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_fork_ends_with_its_caller_however_that_ends(key):
    code = f"from tests.training import test_warm; test_warm.warm.call('{key}', '{HERE}', '{HERE}:linger', {{}}, print)"
    caller = subprocess.Popen([sys.executable, "-uc", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    process = eval(caller.stdout.readline())["process"]
    server = psutil.Process(process).ppid()
    caller.kill()
    caller.wait()
    assert gone(process)
    psutil.Process(server).kill()
