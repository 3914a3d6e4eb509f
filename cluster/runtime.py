"""Connect to Ray: embedded in this process, a cluster that is already running, or a remote address."""

import logging
import os

import ray

from core.errors import RaymillError, UserError

ADDRESS_VARIABLE = "RAYMILL_ADDRESS"
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
    try:
        ray.init(address=chosen, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address {chosen}: no Ray cluster answers there ({str(error).splitlines()[0]}); "
            "start one with 'raymill cluster up --local', or use --address local"
        ) from None
    log.info("connected to the Ray cluster at %s", chosen)


def cores() -> int:
    """CPU cores that the cluster offers to tasks, at least one."""
    if not ray.is_initialized():
        raise RaymillError("Ray is not connected; call cluster.runtime.connect() first")
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
