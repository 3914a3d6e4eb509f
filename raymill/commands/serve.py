"""`raymill serve status|down|preflight`, and where Ray runs for what a command is about to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from core.config import StageConfig
from core.errors import RaymillError
from raymill import console


@contextmanager
def chosen_ray(address: str | None, configs: Sequence[StageConfig]) -> Iterator[None]:
    """Remember the address for the stages of the block.

    An endpoint that is to stay up needs a Ray that outlives this command. When the block fails before the endpoint is
    up, the Ray that was started for it goes too.
    """
    import os

    started = False
    if address is None and any(getattr(config, "keep", False) for config in configs):
        from cluster import local

        started = local.current() is None
        local.up(for_endpoint=True)
        address = "auto"
    try:
        if address is not None:  # a stage that needs no Ray runs where there is none
            from cluster import runtime

            os.environ[runtime.ADDRESS_VARIABLE] = address
            if address != "local":
                runtime.connect(address)  # a wrong address is said before any work is done
        yield
    except BaseException:
        if started and not _is_up():
            _stop_ray()
        raise


def add_to(group: typer.Typer) -> None:
    """Add the commands to `raymill serve`."""
    group.command("status", epilog="Example: raymill serve status")(status)
    group.command("update", epilog="Example: raymill serve update up.yaml --set max_num_seqs=16")(update)
    group.command("down", epilog="Example: raymill serve down")(down)
    group.command("preflight", epilog="Example: raymill serve preflight runs/quickstart/sft/checkpoint")(preflight)


def status() -> None:
    """Show what the endpoint on this machine's cluster is doing: its models, their replicas, queues and drafts."""
    from serving import status as statuses

    _connect()
    line, rows = statuses.overview()
    console.say(line)
    console.table(statuses.COLUMNS, rows)


def update(
    config: Annotated[Path, typer.Argument(help="the endpoint's YAML file, changed", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting; repeatable")
    ] = None,
) -> None:
    """Change the running endpoint to what a configuration says, without a request that fails.

    Models, adapters, aliases, limits, keys and replicas may change; what has not changed runs on.
    """
    from core import config as configs

    given = configs.apply_overrides(configs.load_yaml(config), overrides or [])
    from serving import update as updates
    from serving.up_config import UpConfig

    settings = configs.parse(UpConfig, given, str(config))
    _connect()
    for line in updates.update(settings):
        console.say(line)


def down() -> None:
    """Stop the endpoint on this machine's cluster, and the Ray that was started for it."""
    from cluster import local
    from serving import lifecycle

    _connect()
    console.say("endpoint stopped" if lifecycle.down() else "no endpoint was up")
    cluster = local.current()
    if cluster is not None and cluster.for_endpoint:
        _stop_ray()
        console.say("the Ray that ran for it is stopped as well")


def preflight(
    checkpoint: Annotated[Path | None, typer.Argument(help="say it for this checkpoint", show_default=False)] = None,
    ask: Annotated[bool, typer.Option("--ask", help="ask the installed vLLM's kernels as well (20 s)")] = False,
) -> None:
    """Show which number formats and features run on this machine, and why others do not.

    With --ask it ends with 1 when the installed vLLM disagrees.
    """
    from serving import preflight as tables
    from serving import preflight_table

    if (warning := tables.other_vllm()) is not None:
        console.say(f"warning: {warning}")
    title, columns, rows = preflight_table.for_machine(None if checkpoint is None else str(checkpoint))
    console.say(title)
    console.table(columns, rows)
    if ask:
        answers = preflight_table.asked()
        console.table(["format", "vLLM's kernel here", "agrees"], answers)
        wrong = [name for name, _, agrees in answers if agrees == preflight_table.DISAGREES]
        if wrong:
            raise RaymillError(f"the installed vLLM and the tables disagree on {', '.join(wrong)}")


def _is_up() -> bool:
    import ray

    from serving import lifecycle

    return ray.is_initialized() and lifecycle.is_up()


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
