"""New preference pairs from a checkpoint's own answers: several to each prompt, judged, the best against the worst."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from core import checkpoint
from core.config import Config, InputPath, StageConfig
from core.errors import UserError
from core.manifest import Manifest
from core.report import Report
from core.run import Run
from core.stage import Stage
from training import precision as precisions
from training import rollout as rollouts
from training.chat import ChatEncoder
from training.order import samples
from training.prompts import Prompts, read_prompts
from training.rewards import Answer, RewardConfig, Scorer
from training.rollout import Request, RolloutConfig
from training.world import World

PAIRS = "preferences.parquet"
_SCHEMA = pa.schema(
    [
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_reward", pa.float64()),
        ("rejected_reward", pa.float64()),
        ("source", pa.string()),
        ("document_id", pa.string()),
    ]
)
_SHOWN = 8


class CollectSettings(Config):
    """How answers become pairs."""

    answers: int = Field(4, gt=1, description="answers to each prompt; the best and the worst become a pair")
    prompts: int | None = Field(None, gt=0, description="prompts of a round, others each round; null: all of them")
    least_difference: float = Field(0.0, ge=0, description="pairs whose rewards differ by no more are left out")
    max_length: int = Field(512, gt=1, description="tokens of prompt and answer together, at most")
    precision: precisions.Name = Field("fp32", description="compute in BF16 or in FP32")
    rollout: RolloutConfig = Field(RolloutConfig(), description="how answers are sampled")


class CollectConfig(StageConfig):
    """Settings of one collection."""

    checkpoint: InputPath = Field(description="checkpoint that answers")
    prompts: InputPath = Field(description="prompts, or conversations without their last answer")
    fields: dict[str, str] = Field(default_factory=dict, description="columns of other tables")
    rewards: list[RewardConfig] = Field(min_length=1, description="what makes an answer good")
    first: int = Field(0, ge=0, description="prompts that earlier rounds took, in the order of the seed")
    settings: CollectSettings = Field(CollectSettings(), description="how answers become pairs")


def collect(config: CollectConfig, run: Run) -> Manifest:
    """Prompts to `preferences.parquet`."""
    settings = config.settings
    checkpoint.check(config.checkpoint)
    encoder = ChatEncoder(checkpoint.load_tokenizer(config.checkpoint))
    room = settings.max_length - settings.rollout.max_new_tokens
    if room < 1:
        raise UserError(
            f"collect.max_length: {settings.max_length} leaves no room for a prompt beside rollout.max_new_tokens "
            f"{settings.rollout.max_new_tokens}; raise it"
        )
    prompts = read_prompts(config.prompts, encoder, room, config.fields)
    scorer = Scorer(config.rewards)
    scorer.check(prompts.rows)
    asked = samples(len(prompts), config.seed, config.first, settings.prompts or len(prompts))
    answers = _answers(config, run, encoder, prompts, asked)
    with run.timing("judge"):
        rewards = [scorer.total(found) for found in scorer(answers)]
    rows, skipped = _pairs(answers, rewards, settings)
    if not rows:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in skipped.items())
        raise UserError(f"{config.prompts}: no pair came of {len(asked)} prompts ({reasons}); try more answers")
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), run.path(PAIRS), compression="zstd")
    metrics: dict[str, Any] = {
        "reward": float(np.mean(rewards)),
        "chosen_reward": float(np.mean([row["chosen_reward"] for row in rows])),
        "rejected_reward": float(np.mean([row["rejected_reward"] for row in rows])),
    }
    headline = (
        f"{len(rows):,} pairs from {len(answers):,} answers to {len(asked):,} prompts, mean reward "
        f"{metrics['reward']:.3f}, chosen {metrics['chosen_reward']:.3f}, rejected {metrics['rejected_reward']:.3f}"
    )
    run.log.info("%s", headline)
    counts = {"prompts": len(asked), "answers": len(answers), "pairs": len(rows), "skipped_pairs": dict(skipped)}
    counts["skipped_prompts"] = dict(prompts.skipped)
    report = Report("Collected preferences", headline)
    report.samples(
        "Some of them",
        [
            (row["prompt"][-1]["content"], f"chosen:   {row['chosen']}\nrejected: {row['rejected']}")
            for row in rows[:_SHOWN]
        ],
    )
    report.table("Prompts without a pair", ["reason", "count"], [[name, count] for name, count in skipped.items()])
    return run.commit(counts=counts, metrics=metrics | {"headline": [headline]}, report=report)


def _answers(config: CollectConfig, run: Run, encoder: ChatEncoder, prompts: Prompts, asked: list[int]) -> list[Answer]:
    """`settings.answers` to each prompt asked, prompt by prompt."""
    settings = config.settings
    world = World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    sampler = rollouts.build(
        settings.rollout,
        config.checkpoint,
        encoder.stop_tokens,
        encoder.padding,
        settings.max_length,
        config.seed,
        world,
        precisions.resolve(settings.precision),
        directory=run.directory,
    )
    model: Any = checkpoint.load_model(config.checkpoint)
    model.to(world.device)
    numbered = [prompt for prompt in asked for _ in range(settings.answers)]
    first = config.first * settings.answers  # answers of all rounds are numbered through
    requests = [Request(prompts.tokens[prompt], first + place) for place, prompt in enumerate(numbered)]
    try:
        with run.timing("sample"):
            completions = sampler.sample(model, requests)
    finally:
        sampler.close()
    return [
        Answer(prompts.messages[prompt], encoder.decode(found.tokens), prompts.rows[prompt], not found.stopped)
        for prompt, found in zip(numbered, completions, strict=True)
    ]


def _pairs(
    answers: list[Answer], rewards: list[float], settings: CollectSettings
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The best and the worst answer to each prompt, the first of equal ones, and why other prompts give no pair.

    Answers that did not end by themselves teach no end; they are left out, as are empty ones.
    """
    rows: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    for begin in range(0, len(answers), settings.answers):
        here = [n for n in range(begin, begin + settings.answers) if answers[n].text.strip()]
        ended = [n for n in here if not answers[n].truncated]
        if len(ended) < 2:
            skipped["unfinished_answers" if len(here) > 1 else "empty_answers"] += 1
            continue
        best, worst = max(ended, key=rewards.__getitem__), min(ended, key=rewards.__getitem__)
        if rewards[best] - rewards[worst] <= settings.least_difference:
            skipped["equal_rewards"] += 1
            continue
        rows.append(
            {
                "prompt": [dict(message) for message in answers[best].prompt],
                "chosen": answers[best].text,
                "rejected": answers[worst].text,
                "chosen_reward": rewards[best],
                "rejected_reward": rewards[worst],
                "source": "collected",
                "document_id": answers[best].row.get("document_id"),
            }
        )
    return rows, skipped


STAGE = Stage(name="train.collect", version=1, config=CollectConfig, run=collect)
