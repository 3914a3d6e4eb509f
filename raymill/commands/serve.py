"""`raymill serve status|down`, and where Ray runs for what a command is about to do."""

from collections.abc import Sequence

import typer

from core.config import StageConfig
from raymill import console


def choose_ray(address: str | None, configs: Sequence[StageConfig]) -> None:
    """Remember the address for the stages; an endpoint that is to stay up needs a Ray that outlives this command."""
    import os

    from cluster import local, runtime

    if address is None and any(getattr(config, "keep", False) for config in configs):
        local.up(for_endpoint=True)
        address = "auto"
    if address is not None:
        os.environ[runtime.ADDRESS_VARIABLE] = address
    if address not in (None, "local"):
        runtime.connect(address)  # a wrong address is said before any work is done


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
        local.down()
        console.say("the Ray that ran for it is stopped as well")


def _connect() -> None:
    from cluster import local, runtime
    from core.errors import UserError

    if local.current() is None:
        raise UserError("no endpoint runs here; start one with 'raymill serve up CONFIG --set keep=true'")
    runtime.connect("auto")
