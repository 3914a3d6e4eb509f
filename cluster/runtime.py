"""Connect to Ray: embedded in this process, a cluster that is already running, or a remote address."""

import logging
import os
import signal
import socket
import threading

import ray

from cluster import local
from core.errors import RaymillError, UserError

ADDRESS_VARIABLE = "RAYMILL_ADDRESS"
_ANSWER_SECONDS = 5.0
_MEND = "start one with 'raymill cluster up --local', or use --address local"
log = logging.getLogger("raymill.cluster")


def connect(address: str | None = None) -> None:
    """Make sure this process is connected to Ray; a second call does nothing.

    address: `local` starts Ray inside this process, `auto` finds the cluster running on this machine, anything else
    is an address such as `ray://host:10001`. None reads RAYMILL_ADDRESS, else uses `auto` inside a Ray job
    (RAY_ADDRESS is set there) and `local` otherwise. Raises UserError when no cluster answers there.
    """
    if ray.is_initialized():
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    _connect(address)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler prints the stack of a driver that is stopped


def _connect(address: str | None) -> None:
    chosen = address or os.environ.get(ADDRESS_VARIABLE) or ("auto" if "RAY_ADDRESS" in os.environ else "local")
    if chosen == "local":
        log.info("starting Ray in this process (%s cores)", os.cpu_count())
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        return
    resolved = _resolve(chosen)
    try:
        ray.init(address=resolved, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address {chosen}: no Ray cluster answers there ({str(error).splitlines()[0]}); {_MEND}"
        ) from None
    log.info("connected to the Ray cluster at %s", resolved)


def _resolve(address: str) -> str:
    """What Ray is to connect to. Raises UserError for what is no address or where nobody listens.

    Ray searches the machine for `auto`, and may find one that runs inside another command: the cluster that
    `raymill cluster up` started comes first.
    """
    if address == "auto":
        running = local.current() if "RAY_ADDRESS" not in os.environ else None
        return running.address if running else address
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UserError(f"--address {address}: expected local, auto, host:port or ray://host:port")
    require_listener(address, "Ray cluster", host, int(port), _MEND)
    return address


def require_listener(address: str, what: str, host: str, port: int, mend: str) -> None:
    """Raises UserError where nobody listens: Ray itself tries a silent address for half a minute and more."""
    try:
        socket.create_connection((host.strip("[]"), port), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no {what} answers there ({error}); {mend}") from None


def cores() -> int:
    """CPU cores that the cluster offers to tasks, at least one."""
    if not ray.is_initialized():
        raise RaymillError("Ray is not connected; call cluster.runtime.connect() first")
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
