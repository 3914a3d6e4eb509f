"""A Ray cluster of one node on this machine that outlives the command that started it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from core import storage
from core.errors import RaymillError, UserError

STATE = Path(os.environ.get("XDG_STATE_HOME", "~/.local/state")).expanduser() / "raymill" / "cluster.json"
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0
_CLIENT_PORT = 10001  # Ray's own default, which people know


@dataclass(frozen=True)
class LocalCluster:
    """Where a running local cluster is, and whether it is there only for an endpoint (then it goes with it)."""

    address: str  # host:port, for drivers
    dashboard: str  # a URL, for jobs
    temporary: str  # Ray's folder of sockets and logs
    for_endpoint: bool


def current() -> LocalCluster | None:
    """The local cluster that `up` started, if it still runs."""
    try:
        state = LocalCluster(**json.loads(STATE.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return state if _processes(state.temporary) else None


def up(
    cores: int | None = None, port: int = 6379, dashboard_port: int = 8265, for_endpoint: bool = False
) -> LocalCluster:
    """Start the cluster, or return the one that runs. Raises UserError for a port in use."""
    if (running := current()) is not None:
        return running
    for option, number in (("--port", port), ("--dashboard-port", dashboard_port)):
        _require_free(option, number)
    ray = str(Path(sys.executable).with_name("ray"))
    # The token lies in ~/.ray/auth_token, where every driver of this user finds it.
    subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    # Ray's unix sockets lie below this folder, and their paths must stay under 108 characters.
    temporary = tempfile.mkdtemp(prefix="raymill-")
    command = [ray, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1"]
    command += [
        f"--dashboard-port={dashboard_port}",
        f"--num-cpus={cores or os.cpu_count()}",
        "--include-dashboard=true",
    ]
    # Where another Ray of this machine holds port 52365, Ray's default, the job agent gives up without a word, and the
    # cluster never takes a job.
    command += [
        f"--dashboard-agent-listen-port={_free_port()}",
        f"--ray-client-server-port={_free_port(_CLIENT_PORT)}",
    ]
    command += [f"--temp-dir={temporary}", "--disable-usage-stats"]
    cluster = LocalCluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}", temporary, for_endpoint)
    STATE.parent.mkdir(parents=True, exist_ok=True)
    storage.write_atomic(STATE, json.dumps(asdict(cluster)) + "\n")
    try:
        _start(command)
        _wait_for_dashboard(cluster)
    except BaseException:
        down()  # a head without its raylet would stay behind
        raise
    return cluster


def _start(command: list[str]) -> None:
    # A raylet ends itself when its agent is not there within 15 s, which a busy machine takes to import it.
    environment = {**os.environ, "RAY_agent_register_timeout_ms": str(int(_START_SECONDS * 1000))}
    try:
        started = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_START_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise RaymillError(f"ray start did not come to an end within {_START_SECONDS:.0f} s") from None
    if started.returncode != 0:
        lines = (started.stderr or started.stdout).strip().splitlines() or ["no message"]
        raise RaymillError(f"ray start failed: {lines[-1]}")


def down() -> bool:
    """Stop the cluster that `up` started, and nothing else of Ray on this machine. False when none runs."""
    cluster = current()
    processes = _processes(cluster.temporary) if cluster is not None else []
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=_STOP_SECONDS)
    for process in alive:
        _signal(process.kill)
    STATE.unlink(missing_ok=True)  # last: a `down` that is interrupted can be repeated
    return cluster is not None


def _processes(temporary: str) -> list[psutil.Process]:
    """Ray's daemons carry the folder in their arguments; the workers die with their raylet."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        # somebody who reads a log there has the folder in his arguments too
        if any(temporary in argument for argument in arguments) and any("/ray/" in part for part in arguments):
            found.append(process)
    return found


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return


def _require_free(option: str, port: int) -> None:
    if not _is_free(port):
        raise UserError(f"{option} {port}: the port is in use; stop what listens there or choose another")


def _is_free(port: int) -> bool:
    """Whether a server may bind the port on every address of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104  # asked for, and given back
        except OSError:
            return False
        return True


def _free_port(usual: int | None = None) -> int:
    """The usual port, or any other when it is taken or there is none."""
    if usual is not None and _is_free(usual):
        return usual
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_dashboard(cluster: LocalCluster) -> None:
    """`ray start` returns before the dashboard takes jobs."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{cluster.dashboard}/api/version", timeout=2)  # any answer will do; without the token it is 401
        except httpx.TransportError:
            time.sleep(0.3)
        else:
            return
    raise RaymillError(f"{cluster.dashboard}: the dashboard did not come up within {_START_SECONDS:.0f} s")
