"""The `raymill` command: one grammar everywhere, a YAML configuration and `--set a.b=c`."""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import cluster as _environment  # noqa: F401  # first of all: it sets what `import ray` reads
from core import config as core_config
from core.errors import RaymillError
from raymill import console, registry
from raymill.commands import cluster as cluster_commands
from raymill.commands import serve

log = logging.getLogger("raymill.run")

CONFIG = typer.Argument(help="YAML file with the stage's settings", show_default=False)
SET = typer.Option("--set", metavar="KEY=VALUE", help="override a setting, as in --set dedup.threshold=0.8; repeatable")
ADDRESS = typer.Option(help="Ray: local (in this process), auto (the cluster running here) or an address")
FORCE = typer.Option("--force", help="run even when the artifact is up to date; what it holds is deleted first")

_GROUPS = {
    "data": "Raw web to clean, deduplicated documents, and documents to tokens.",
    "train": "Tokens, instructions and preferences to checkpoints.",
    "eval": "Checkpoints to scores and regression verdicts.",
    "serve": "Checkpoints to quantized checkpoints and HTTP endpoints.",
}
_STAGES = {
    "data.crawl": "Fetch pages politely and store them as WARC.",
    "data.build": "Turn WARC, Parquet or JSONL into clean, deduplicated documents.",
    "data.index": "Index a documents artifact, for later builds to deduplicate against.",
    "data.tokenize": "Train a byte-level BPE tokenizer and write tokens.",
    "data.stats": "Make a page to browse a documents artifact: counts, histograms, samples of each rule.",
    "data.train-classifier": "Train a fastText classifier of documents: quality, topic, toxicity.",
    "data.derive": "Derive instruction pairs, preference pairs and questions from documents.",
    "data.ablate": "Try mixtures of sources with small pretrainings side by side, rank them, predict others.",
    "train.pretrain": "Train a language model from tokens.",
    "train.sft": "Fine-tune a checkpoint on conversations.",
    "train.dpo": "Align a checkpoint with preference pairs, or with labelled answers.",
    "train.reward": "Train a reward model from preference pairs.",
    "train.grpo": "Teach a checkpoint by rewards of its own answers, each against others to the same prompt.",
    "train.ppo": "Teach a checkpoint by rewards of its own answers, with a value head.",
    "train.rounds": "Align in rounds: collect pairs of the model's own answers, train on them, evaluate, again.",
    "train.merge": "Merge an adapter into its full-precision base, and check that nothing else changes.",
    "eval.run": "Score checkpoints on tasks.",
    "eval.compare": "Say whether a checkpoint regressed; exit code 1 when it did.",
    "serve.quantize": "Quantize a checkpoint and check its quality.",
    "serve.up": "Start an OpenAI-compatible endpoint for a checkpoint.",
    "serve.bench": "Measure an endpoint under load: latency, throughput, goodput, errors.",
}

app = typer.Typer(
    help="Raw web text in, a served language model out, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _common(debug: Annotated[bool, typer.Option("--debug", help="show tracebacks and debug lines")] = False) -> None:
    console.start_logging(debug)


@app.command("run", epilog="Example: raymill run examples/quickstart/recipe.yaml --set pretrain.steps=100 --dry-run")
def run(
    recipe: Annotated[Path, typer.Argument(help="recipe YAML: stages run in order", show_default=False)],
    only: Annotated[str | None, typer.Option(help="run this stage alone")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="start at this stage")] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    address: Annotated[str | None, ADDRESS] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, show the plan, run nothing")] = False,
    force: Annotated[bool, FORCE] = False,
) -> None:
    """Run a recipe: the whole chain, or a part of it. What is up to date is reused."""
    from raymill import summary
    from raymill.recipe import Plan

    plan = Plan(recipe, overrides or [])
    plan.select(only, from_)
    if dry_run:
        console.table(["stage", "command", "run directory", "would"], plan.preview())
        return
    with serve.chosen_ray(address, [step.config for step in plan.steps]):
        results = plan.run(only, from_, force)
    summary.show(plan.recipe, results)


def _stage_command(name: str) -> Callable[..., None]:
    def command(
        config: Annotated[Path, CONFIG],
        overrides: Annotated[list[str] | None, SET] = None,
        address: Annotated[str | None, ADDRESS] = None,
        force: Annotated[bool, FORCE] = False,
    ) -> None:
        _execute(name, config, overrides or [], address, force)

    return command


def _quantize(
    config: Annotated[Path, CONFIG],
    overrides: Annotated[list[str] | None, SET] = None,
    address: Annotated[str | None, ADDRESS] = None,
    force: Annotated[bool, FORCE] = False,
    every: Annotated[bool, typer.Option("--all", help="every scheme by every method, compared: schemes=all")] = False,
) -> None:
    _execute("serve.quantize", config, [*(overrides or []), *(["schemes=all"] if every else [])], address, force)


def _execute(name: str, config: Path, overrides: list[str], address: str | None, force: bool) -> None:
    from raymill import summary

    # First the file: what is wrong with it is said without waiting for a stage's libraries.
    given = core_config.apply_overrides(core_config.load_yaml(config), overrides)
    stage = registry.load(name)
    settings = core_config.parse(stage.config, given, str(config))
    with serve.chosen_ray(address, [settings]):
        made, _ = stage.execute(settings, force)
    log.info("done: %s", settings.output)
    for line in summary.headline(made):
        console.say(line)


def _add_groups() -> None:
    groups = {
        group: typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None) for group, text in _GROUPS.items()
    }
    for name, text in _STAGES.items():
        group, _, verb = name.partition(".")
        example = f"Example: raymill {group} {verb} {verb}.yaml --set seed=1"
        command = _quantize if name == "serve.quantize" else _stage_command(name)
        groups[group].command(verb, help=text, epilog=example)(command)
    groups["train"].command("status", epilog="Example: raymill train status runs/quickstart/pretrain")(_train_status)
    serve.add_to(groups["serve"])
    for group, sub in groups.items():
        app.add_typer(sub, name=group)
    app.add_typer(cluster_commands.app, name="cluster")


def _train_status(run: Annotated[Path, typer.Argument(help="run directory of a training stage")]) -> None:
    """Show where a training run is, also while it runs in another shell."""
    from training.status import status

    console.table(["", ""], [[name, value] for name, value in status(run)])


def _complain_of_usage(error: typer.TyperException) -> None:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if "\n" in message:  # a group called without a command: its help
        console.say(message)
        return
    where = context.command_path.removeprefix("raymill").strip() if context else ""
    console.complain(f"{where}: {message}" if where else message)


_add_groups()


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 0, 2 for a user's mistake, 1 for a failure; a traceback only with --debug."""
    command: Any = typer.main.get_command(app)
    words = sys.argv[1:] if arguments is None else arguments
    # A stopped job gets SIGTERM: leave through the usual door, so that services and engines are stopped as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(command.main(args=words, prog_name="raymill", standalone_mode=False) or 0)
    except typer.TyperException as error:
        _complain_of_usage(error)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        console.complain("stopped; the same command goes on from here")
        sys.exit(130)
    except RaymillError as error:
        if "--debug" in words:
            raise
        console.complain(str(error))
        sys.exit(error.exit_code)
    except Exception as error:  # the last line of defence: a bug becomes one line, not a page
        if "--debug" in words:
            raise
        last = str(error).strip().splitlines()
        console.complain(f"{type(error).__name__}: {last[0] if last else 'no message'} (--debug shows where)")
        sys.exit(1)
