"""Connect to Ray: embedded in this process, a cluster that is already running, or a remote address."""

import logging
import os
import socket

import ray

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
    chosen = address or os.environ.get(ADDRESS_VARIABLE) or ("auto" if "RAY_ADDRESS" in os.environ else "local")
    if chosen == "local":
        log.info("starting Ray in this process (%s cores)", os.cpu_count())
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        return
    _require_listener(chosen)
    try:
        ray.init(address=chosen, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address {chosen}: no Ray cluster answers there ({str(error).splitlines()[0]}); {_MEND}"
        ) from None
    log.info("connected to the Ray cluster at %s", chosen)


def _require_listener(address: str) -> None:
    """Ray tries a silent address for minutes: ask the port first."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({error}); {_MEND}") from None


def cores() -> int:
    """CPU cores that the cluster offers to tasks, at least one."""
    if not ray.is_initialized():
        raise RaymillError("Ray is not connected; call cluster.runtime.connect() first")
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
