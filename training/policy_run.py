"""A run of a method that learns from its own answers: what GRPO and PPO share around their objectives."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from core.errors import UserError
from core.manifest import Manifest
from core.report import Report
from core.run import Run
from training import metrics, rollout
from training.episodes import Judge, PolicyConfig, Rollouts, require_columns
from training.launch import launch
from training.model import count_parameters
from training.objectives import Objective
from training.precision import resolve
from training.prompts import Prompts, read_prompts
from training.report import curves, left_out, training_report
from training.rewards import Scorer
from training.trainer import Trainer
from training.tuning import Tuned, check
from training.world import World

_SHOWN_PROMPTS, _SHOWN_ANSWERS = 6, 2
_HELDOUT = 1 << 40
"""Numbers of answers to held-out prompts begin here: no rollout comes that far."""


def train(
    config: PolicyConfig,
    directory: Path,
    world: World,
    objective: Objective,
    judge: Judge,
    with_reference: bool,
    wrap: Callable[[Any], nn.Module] = lambda model: model,
) -> dict[str, Any]:
    """One training process. wrap: puts a value head on the policy; with_reference: its divergence is asked for."""
    tuned = Tuned(config, world)
    encoder = tuned.encoder
    tables = {name: read_table(config, tuned.encoder, name) for name in ("prompts", "heldout") if getattr(config, name)}
    prompts, held_out = tables["prompts"], tables.get("heldout")
    precision = resolve(config.precision, config.bf16_path)
    scorer = Scorer(config.rewards, world.device)
    sampler = rollout.build(
        config.rollout,
        config.checkpoint,
        encoder.stop_tokens,
        encoder.padding,
        config.max_length,
        config.seed,
        world,
        precision,
        directory,
    )
    model = wrap(tuned.model)
    samples = Rollouts(config, directory, world, prompts, sampler, scorer, encoder.decode, encoder.padding, judge)
    chosen = range(min(config.evaluated_prompts, len(held_out))) if held_out is not None else ()

    def held_out_rewards() -> list[float]:
        if held_out is None:
            return []
        episodes = samples.answer(chosen, _HELDOUT, held_out, greedy=True)
        samples.score(episodes, held_out)
        return [episode.reward for episode in episodes]

    def facts() -> dict[str, float]:
        """Called after each step: what the log holds of the rollout at hand, and at times of the held-out prompts."""
        found = dict(samples.facts)
        if held_out is not None and config.evaluate_every and samples.steps % config.evaluate_every == 0:
            found["heldout_reward"] = float(np.mean(held_out_rewards()))
        return found

    trainer = Trainer(
        config,
        directory,
        world,
        model,
        objective,
        samples,
        length=config.max_length,
        steps=config.steps_for(len(prompts)),
        evaluate=facts,
        evaluate_every=1,
    )
    with ExitStack() as stack:
        stack.callback(sampler.close)
        reference: Callable[[], AbstractContextManager[nn.Module]] | None = None
        if with_reference and config.method == "lora":
            reference = tuned.before_tuning
        elif with_reference:
            original = stack.enter_context(tuned.before_tuning())
            reference = lambda: nullcontext(original)  # noqa: E731
        samples.attach(model, trainer.precision, reference)
        before = held_out_rewards()  # the trainer loads a saved state only when it runs
        last = trainer.run()
        after = held_out_rewards()
    parameters, trainable = count_parameters(model)
    shown = _shown(samples)
    if world.is_main:
        tuned.save(directory)
        samples.clear()
    world.barrier()
    return {
        "last": last,
        "prompts": {name: len(table) for name, table in tables.items()},
        "skipped": {name: table.skipped for name, table in tables.items()},
        "heldout": {"before": _mean(before), "after": _mean(after)} if before else None,
        "shown": shown,
        "parameters": parameters,
        "trainable": trainable,
        "precision": trainer.precision.name,
    }


def read_table(config: PolicyConfig, encoder: Any, name: str) -> Prompts:
    """The table of prompts under a setting of this name."""
    longest = config.max_length - config.rollout.max_new_tokens
    return read_prompts(getattr(config, name), encoder, longest, config.fields)


def _mean(rewards: Sequence[float]) -> dict[str, float]:
    values = np.array(rewards)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"value": float(values.mean()), "standard_error": float(error), "n": len(values)}


def _shown(samples: Rollouts) -> list[list[Any]]:
    """Some answers of the last rollout: (what was asked last, reward, rewards, answer)."""
    group = samples.config.group_size
    found: list[list[Any]] = []
    for first in range(0, min(len(samples.episodes), _SHOWN_PROMPTS * group), group):
        for episode in samples.episodes[first : first + min(group, _SHOWN_ANSWERS)]:
            asked = samples.prompts.messages[episode.row][-1]["content"]
            found.append([asked, episode.reward, episode.rewards, episode.text])
    return found


# --- the driver's side --------------------------------------------------------------------------------------------


def run_stage(
    config: PolicyConfig, run: Run, module: str, title: str, figures: Callable[[Report, list[dict[str, Any]]], None]
) -> Manifest:
    """Check, launch, report. `figures` adds the method's own curves."""
    encoder = check(config)
    if config.parallel == "fsdp":
        raise UserError("parallel: fsdp shards the weights, and sampling needs them whole on every worker; set ddp")
    names = [name for name in ("prompts", "heldout") if getattr(config, name)]
    scorer = Scorer(config.rewards)
    for name in names:
        table = read_table(config, encoder, name)
        require_columns(scorer, table, getattr(config, name))
        skipped = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in table.skipped.items())
        note = f"; left out: {skipped}" if skipped else ""
        run.log.info("%s: %s prompts%s", getattr(config, name), f"{len(table):,}", note)
    del scorer
    result = launch(config, run, module)
    last, rows = result["last"], metrics.read(run.directory)
    found = {
        **_rise(rows),
        "training_loss": last["loss"],
        "trainable_parameters": result["trainable"],
        "precision": result["precision"],
    }
    headline = [
        f"mean reward of sampled answers: {found['reward_first']:.3f} in the first tenth of the steps, "
        f"{found['reward_last']:.3f} in the last"
    ]
    if result["heldout"]:
        for when, value in result["heldout"].items():
            found[f"heldout_reward_{when}"] = value["value"]
            found[f"heldout_reward_{when}_standard_error"] = value["standard_error"]
        before, after = (f"{v['value']:.3f} ± {v['standard_error']:.3f}" for v in result["heldout"].values())
        number = result["heldout"]["after"]["n"]
        headline.append(f"reward of greedy answers to {number:,} held-out prompts: {before} before, {after} after")
    for line in headline:
        run.log.info("%s", line)
    counts = {
        "steps": last["step"],
        "answers": last["samples"],
        "tokens": last["tokens"],
        "skipped_steps": last["skipped"],
        "prompts": result["prompts"],
        "skipped_prompts": result["skipped"],
    }
    report = _report(title, result, found, rows, config, figures)
    return run.commit(counts=counts, metrics=found | {"headline": headline}, report=report)


def _rise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean reward in the first and in the last tenth of the steps."""
    rewards = [row["reward"] for row in rows]
    tenth = max(1, len(rewards) // 10)
    return {"reward_first": float(np.mean(rewards[:tenth])), "reward_last": float(np.mean(rewards[-tenth:]))}


def _report(
    title: str,
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    rows: list[dict[str, Any]],
    config: PolicyConfig,
    figures: Callable[[Report, list[dict[str, Any]]], None],
) -> Report:
    last = result["last"]
    summary = f"{last['step']:,} steps on {last['samples']:,} answers to {result['prompts']['prompts']:,} prompts"
    report = training_report(title, summary, facts, rows, loss_unit="the objective's own")
    rewards = {"reward": "sampled answers, weighted sum", "heldout_reward": "held-out prompts, greedy answers"}
    rewards |= {f"reward/{each.called}": f"{each.called}, before its weight" for each in config.rewards}
    curves(report, "Reward", rows, rewards, "mean reward")
    curves(report, "Spread of the reward", rows, {"reward_std": "standard deviation"}, "over a rollout's answers")
    curves(report, "Length of the answers", rows, {"answer_tokens": "tokens"}, "tokens per answer")
    names = {"truncated_share": "answers cut off", "clip_share": "tokens clipped", "importance_cut": "weights cut"}
    names["zero_variance_share"] = "groups of equal rewards"
    curves(report, "Shares", rows, names, "share")
    curves(report, "Entropy", rows, {"entropy": "entropy"}, "nats per token")
    names = {"kl": "training tokens", "rollout_kl": "sampled answers"}
    curves(report, "Divergence from the model before tuning", rows, names, "nats per token")
    note = "Mean difference of log-probabilities between the process that sampled and the trainer."
    curves(report, "Sampler and trainer", rows, {"sampler_gap": "gap"}, "nats per token", note)
    figures(report, rows)
    seconds = {"sample_seconds": "sampling", "reward_seconds": "rewards", "sync_seconds": "weight sync"}
    curves(report, "Seconds of a rollout", rows, seconds | {"step_seconds": "whole step"}, "s")
    report.samples(
        "Answers of the last rollout",
        [
            (f"{reward:.3f}: {asked}", f"{text}\n\n" + ", ".join(f"{name} {value:.3f}" for name, value in each.items()))
            for asked, reward, each, text in result["shown"]
        ],
    )
    report.table("Prompts left out", ["table", "reason", "count"], left_out(result["skipped"]))
    return report
