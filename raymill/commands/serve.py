"""`raymill serve status|down`, and where Ray runs for what a command is about to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from core.config import StageConfig
from raymill import console


@contextmanager
def chosen_ray(address: str | None, configs: Sequence[StageConfig]) -> Iterator[None]:
    """Remember the address for the stages of the block.

    An endpoint that is to stay up needs a Ray that outlives this command. When the block fails before the endpoint is
    up, the Ray that was started for it goes too.
    """
    import os

    from cluster import local, runtime

    started = False
    if address is None and any(getattr(config, "keep", False) for config in configs):
        started = local.current() is None
        local.up(for_endpoint=True)
        address = "auto"
    try:
        if address is not None:
            os.environ[runtime.ADDRESS_VARIABLE] = address
        if address not in (None, "local"):
            runtime.connect(address)  # a wrong address is said before any work is done
        yield
    except BaseException:
        if started and not _is_up():
            _stop_ray()
        raise


def add_to(group: typer.Typer) -> None:
    """Add the commands to `raymill serve`."""
    group.command("status", epilog="Example: raymill serve status")(status)
    group.command("down", epilog="Example: raymill serve down")(down)


def status() -> None:
    """Show what the endpoint on this machine's cluster is doing."""
    from serving import lifecycle

    _connect()
    console.table(["endpoint", "state", "detail"], lifecycle.status())


def down() -> None:
    """Stop the endpoint on this machine's cluster, and the Ray that was started for it."""
    from cluster import local
    from serving import lifecycle

    _connect()
    lifecycle.down()
    console.say("endpoint stopped")
    cluster = local.current()
    if cluster is not None and cluster.for_endpoint:
        _stop_ray()
        console.say("the Ray that ran for it is stopped as well")


def _is_up() -> bool:
    import ray

    from serving import lifecycle

    return ray.is_initialized() and bool(lifecycle.status())


def _stop_ray() -> None:
    """Disconnect, then stop the local cluster."""
    import ray

    from cluster import local

    ray.shutdown()
    local.down()


def _connect() -> None:
    from cluster import local, runtime
    from core.errors import UserError

    if local.current() is None:
        raise UserError("no endpoint runs here; start one with 'raymill serve up CONFIG --set keep=true'")
    runtime.connect("auto")
