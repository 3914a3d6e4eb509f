"""Programs that try to get out of the sandbox, to stay behind, or to take more than they may."""

import os
import socket
import subprocess
import time

import pytest

from core import sandbox
from core.errors import UserError
from core.sandbox import Limits, run_python

QUICK = Limits(seconds=0.5, cpu_seconds=1)


def test_a_program_says_what_it_computed():
    result = run_python("import json\nprint(json.dumps(input()))\nraise SystemExit(3)", stdin="größer\n")
    assert (result.status, result.exit_code, result.stdout) == ("failed", 3, '"gr\\u00f6\\u00dfer"\n')


@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import os, time\nos.close(1); os.close(2)\ntime.sleep(60)"],
    ids=["with its output open", "with its output closed"],
)
def test_an_endless_program_is_stopped(program):
    began = time.monotonic()
    assert run_python(program, QUICK).status == "timeout"
    assert time.monotonic() - began < 30


def test_ignoring_signals_does_not_help():
    program = (
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass"
    )
    assert run_python(program, QUICK).status == "timeout"


@pytest.mark.slow
def test_processor_time_is_limited_apart_from_the_clock():
    assert run_python("while True: pass", Limits(seconds=60, cpu_seconds=1)).status == "timeout"


def test_a_fork_bomb_stays_small():
    program = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError as error:
    print(made, type(error).__name__)
"""
    result = run_python(program, Limits(processes=4))
    made, error = result.stdout.split()
    assert int(made) <= 4
    assert error == "BlockingIOError"


def test_memory_files_and_output_are_limited():
    assert "MemoryError" in run_python("bytearray(10**9)").stderr
    for program in ("open('a', 'wb').write(bytes(10**8))", "for i in range(9): open(str(i), 'wb').write(bytes(10**7))"):
        assert run_python(program, Limits(file_bytes=1 << 24)).status in {"failed", "killed"}
    flood = run_python("while True: print('x' * 999)", Limits(output_bytes=10_000))
    assert flood.status == "output"
    assert len(flood.stdout) == 10_000


def test_nothing_of_the_machine_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYMILL_SECRET", "hush")
    (tmp_path / "secret").write_text("hush")
    program = f"""
import os
print(dict(os.environ))
print(os.listdir("/tmp"), os.path.exists({str(tmp_path)!r}))
for path in ("/etc/passwd", "/proc/self/environ", f"/proc/{{os.getppid()}}/environ", "/proc/1/environ"):
    try:
        print(path, open(path).read())
    except OSError as error:
        pass
for descriptor in range(3, 64):
    try:
        print("open", os.fstat(descriptor))
    except OSError:
        pass
"""
    result = run_python(program)
    assert result.status == "ok", result.stderr
    environment, files = result.stdout.splitlines()
    assert "hush" not in environment
    assert files == "['program.py'] False"


ATTEMPTS = """
import socket; socket.create_connection(('127.0.0.1', {port}), timeout=2)
os.kill({pid}, 9)
os.kill(-1, 9)
open(os.__file__, 'a')
open('/dev/sda', 'rb')
open('/made-here', 'w')
os.setuid(0)
os.chroot('/tmp')
assert c.unshare(0x10000000) == 0
assert c.ptrace(16, 1, 0, 0) == 0
assert c.mount(b'x', b'/tmp', b'tmpfs', 0, b'') == 0
"""


def test_what_reaches_outside_fails():
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempts = ATTEMPTS.format(port=server.getsockname()[1], pid=os.getpid()).strip().splitlines()
        program = f"""
import ctypes, os
os.kill(os.getppid(), 9)  # its init, which takes no signals from inside
c = ctypes.CDLL(None)
for attempt in {attempts!r}:
    try:
        exec(attempt)
        print(attempt)
    except (OSError, AssertionError):
        pass
print("done")
"""
        result = run_python(program)
    assert (result.stdout, result.stderr) == ("done\n", "")


def test_a_daemon_dies_with_its_program():
    mark = f"stay-{os.getpid()}-{time.time_ns()}"
    program = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", {mark!r}])
"""
    assert run_python(program).status == "ok"
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert mark not in processes


def test_it_refuses_where_it_cannot_isolate(monkeypatch, tmp_path):
    jail = tmp_path / "jail.py"
    jail.write_text(sandbox._JAIL.read_text().replace("flags = _NEW_FILES", "flags = -1"))
    monkeypatch.setattr(sandbox, "_JAIL", jail)
    with pytest.raises(UserError, match=r"cannot isolate a program here .*unshare"):
        run_python("print(1)")
