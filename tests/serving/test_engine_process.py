import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.serving.doors import wait_for

CODE = """
import os, sys, time
from serving import engine_process
from tests.serving import forked
engine_process._IMPORTS = "tests.serving.forked"
engine_process.prepare(on_gpu=False)
os.environ["SET_LATE"] = "yes"
engine_process._Forked().Process(target=forked.report, name="engine", kwargs={"path": sys.argv[1]}).start()
time.sleep(60)
"""


def test_an_engine_is_gone_when_its_replica_is_killed_and_has_its_last_environment(tmp_path):
    report = tmp_path / "report"
    root = Path(__file__).resolve().parents[2]
    replica = subprocess.Popen(
        [sys.executable, "-c", CODE, str(report)], cwd=root, env=os.environ | {"PYTHONPATH": "."}
    )
    whole = Path(f"{report}.whole")
    wait_for(whole.exists, 60)
    pid, late = whole.read_text().split()
    assert late == "yes"
    assert psutil.pid_exists(int(pid))
    replica.send_signal(signal.SIGKILL)
    replica.wait()
    wait_for(lambda: not psutil.pid_exists(int(pid)))


def test_what_is_replaced_is_what_this_vllm_calls():
    """Read, not imported: vLLM costs 20 s."""
    from importlib.util import find_spec

    source = (Path(find_spec("vllm").origin).parent / "v1/engine/utils.py").read_text()
    assert "context = get_mp_context()" in source
    assert "context.Process(" in source
    assert "target=EngineCoreProc.run_engine_core" in source
