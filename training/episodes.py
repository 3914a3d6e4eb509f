"""Rollouts as training data: prompts answered by the policy as it is, scored, and cut into micro-batches.

A rollout serves `steps_per_rollout` optimizer steps, `rollout_epochs` times. It lies in the run directory until no
trainer checkpoint needs it any more, so that a resumed run goes on with the very same answers.
"""

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from core import storage
from core.config import RUNTIME, InputPath
from core.errors import UserError
from training import saved_steps
from training.batch import Segment, pack
from training.linear_cross_entropy import IGNORED
from training.order import permutation, samples
from training.policy import PolicyBatch, answer_segment, policy_batch, policy_terms
from training.precision import Precision
from training.prompts import Prompts
from training.rewards import Answer, RewardConfig, Scorer
from training.rollout import Request, RolloutConfig, Sampler
from training.tuning import TuneConfig
from training.world import World

_FOLDER = ".rollouts"
_PASSES = 1 << 20
"""Keys of the order of answers, apart from those of the order of prompts."""


@dataclass
class Episode:
    """One answer to a prompt, and all that is known of it; lists have one entry per token of the answer."""

    row: int
    """Of the table of prompts."""
    prompt: list[int]
    tokens: list[int]
    sampler_log_p: list[float]
    stopped: bool
    text: str = ""
    rewards: dict[str, float] = field(default_factory=dict)
    reward: float = 0.0
    advantages: list[float] | None = None
    old_log_p: list[float] | None = None
    reference_log_p: list[float] | None = None
    old_values: list[float] | None = None
    returns: list[float] | None = None


class PolicyConfig(TuneConfig):
    """What methods share that learn from their own answers."""

    prompts: InputPath = Field(description="what is asked: a column prompt, or conversations without their last answer")
    heldout: InputPath | None = Field(
        None, description="prompts for a mean reward of greedy answers; none: not measured"
    )
    fields: dict[str, str] = Field(
        default_factory=dict, description="columns of other tables, as {prompt: ask, response: reply}; maybe system"
    )
    rewards: list[RewardConfig] = Field(min_length=1, description="what makes an answer good; weighted and added up")
    rollout: RolloutConfig = Field(RolloutConfig(), description="how answers are sampled")
    steps_per_rollout: int = Field(1, gt=0, description="optimizer steps that share the answers of one rollout")
    rollout_epochs: int = Field(1, gt=0, description="times that each answer of a rollout is learned from")
    mask_truncated: bool = Field(False, description="learn nothing from answers that were cut off (DAPO's filter)")
    evaluate_every: Annotated[int, RUNTIME] = Field(
        0, ge=0, description="steps between rewards of held-out prompts; 0: before and after training only"
    )
    evaluated_prompts: int = Field(256, gt=0, description="held-out prompts that are answered, at most")

    @property
    def group_size(self) -> int:
        """Answers to each prompt of a rollout."""
        return 1

    @property
    def answers(self) -> int:
        """Answers of a rollout."""
        return self.batch_size * self.steps_per_rollout

    @property
    def rollout_prompts(self) -> int:
        """Prompts of a rollout."""
        return self.answers // self.group_size

    @property
    def rollout_steps(self) -> int:
        """Optimizer steps of a rollout."""
        return self.steps_per_rollout * self.rollout_epochs

    def steps_for(self, examples: int) -> int:
        """Optimizer steps of the run: whole rollouts for `epochs` passes over the prompts, or `steps`."""
        rollouts = max(1, round(self.epochs * examples / self.rollout_prompts))
        return self.steps or rollouts * self.rollout_steps

    @model_validator(mode="after")
    def _fits(self) -> "PolicyConfig":
        if self.export == "best":
            raise ValueError("export: best goes by held-out loss, and a policy that learns from rewards has none")
        if self.rollout.max_new_tokens >= self.max_length:
            raise ValueError(
                f"rollout.max_new_tokens {self.rollout.max_new_tokens} leaves no room for a prompt in max_length "
                f"{self.max_length}"
            )
        if self.answers % self.group_size:
            raise ValueError(
                f"batch_size x steps_per_rollout is {self.answers}, no multiple of the {self.group_size} answers to "
                "each prompt"
            )
        if self.rollout.engine == "vllm" and self.method == "lora" and self.lora.base == "nf4":
            raise ValueError("rollout.engine vllm needs the adapter merged, which a 4-bit base does not allow")
        return self


Reference = Callable[[], AbstractContextManager[nn.Module]]
Judge = Callable[[list[Episode], Mapping[str, float]], dict[str, float]]
"""Sets advantages (and returns) of a rollout's episodes from their rewards; gives what is to be logged of it.

Its second argument is what was logged of the rollout before, empty for the first."""


class Rollouts:
    """`Samples` of a trainer: answers of the policy that is being trained."""

    def __init__(
        self,
        config: PolicyConfig,
        directory: Path,
        world: World,
        prompts: Prompts,
        sampler: Sampler,
        scorer: Scorer,
        decode: Callable[[Sequence[int]], str],
        padding: int,
        judge: Judge,
    ) -> None:
        self.config, self.world, self.prompts = config, world, prompts
        self.sampler, self.scorer, self.decode, self.padding = sampler, scorer, decode, padding
        self.judge = judge
        self.folder = directory / _FOLDER
        self.directory = directory
        self.model: nn.Module | None = None
        self.reference: Reference | None = None
        """Opens the model before tuning, where a divergence from it counts."""
        self.precision: Precision | None = None
        self.facts: dict[str, float] = {}
        """Of the rollout at hand, for the log."""
        self.episodes: list[Episode] = []
        self.steps = 0
        """Optimizer steps that have been served, this run and those before a resume together."""
        self._number = -1

    def attach(self, model: nn.Module, precision: Precision, reference: Reference | None) -> None:
        """The policy to sample from."""
        self.model, self.precision, self.reference = model, precision, reference

    # --- the trainer's side -------------------------------------------------------------------------------------

    def micro_batches(self, consumed: int, count: int, rank: int, size: int) -> Iterator[tuple[int, PolicyBatch]]:
        """This rank's micro-batches of the step after `consumed` answers; samples a rollout where one begins."""
        step = consumed // count
        self.steps = step + 1
        number, inside = divmod(step, self.config.rollout_steps)
        if number != self._number:
            self.episodes, self.facts = self._rollout(number, step)
            self._number = number
        turn, part = divmod(inside, self.config.steps_per_rollout)
        order = permutation(len(self.episodes), self.config.seed, _PASSES + number * self.config.rollout_epochs + turn)
        chosen = [self.episodes[int(i)] for i in order[part * count : (part + 1) * count]]
        if self.config.mask_truncated:
            chosen = [episode for episode in chosen if episode.stopped]
        yield from zip(itertools.count(rank, size), self.batches(chosen, rank, size), strict=False)

    def batches(self, episodes: Sequence[Episode], rank: int = 0, size: int = 1) -> Iterator[PolicyBatch]:
        """Rank's share of the episodes, packed."""
        for _, batch in self._packed(episodes, rank, size):
            yield batch

    def _packed(self, episodes: Sequence[Episode], rank: int, size: int) -> Iterator[tuple[list[int], PolicyBatch]]:
        segments: list[Segment] = [answer_segment(episode.prompt, episode.tokens) for episode in episodes]
        rows = pack([[segment] for segment in segments], self.config.max_length)
        wanted = -(-len(rows) // (self.config.micro_batch * size)) * size
        bounds = np.linspace(0, len(rows), min(wanted, len(rows)) + 1).round().astype(int)
        for begin, end in list(pairwise(bounds))[rank::size]:
            here = rows[begin:end]
            numbers = [number for row in here for number in row]
            yield (
                numbers,
                policy_batch(
                    [[segments[number] for number in row] for row in here],
                    {name: _column([episodes[number] for number in numbers], name) for name in _COLUMNS},
                    self.padding,
                ),
            )

    # --- a rollout ----------------------------------------------------------------------------------------------

    def _rollout(self, number: int, step: int) -> tuple[list[Episode], dict[str, float]]:
        if (saved := self._saved(number)) is not None:
            return [Episode(**episode) for episode in saved["episodes"]], saved["facts"]
        before = (self._saved(number - 1) or {}).get("facts", {})
        began = time.perf_counter()
        rows = samples(
            len(self.prompts), self.config.seed, number * self.config.rollout_prompts, self.config.rollout_prompts
        )
        wanted = [row for row in rows for _ in range(self.config.group_size)]
        episodes = self.answer(wanted, number * self.config.answers)
        sampled = time.perf_counter()
        self.score(episodes, self.prompts)
        scored = time.perf_counter()
        self._look_back(episodes)
        facts = self._facts(episodes) | self.judge(episodes, before)
        facts["sample_seconds"] = round(sampled - began, 3)
        facts["reward_seconds"] = round(scored - sampled, 3)
        facts["sync_seconds"] = round(self.sampler.sync_seconds, 4)
        if self.world.is_main:
            self._clean(step)
            content = {"facts": facts, "episodes": [asdict(episode) for episode in episodes]}
            self.folder.mkdir(exist_ok=True)
            storage.write_atomic(self._file(number), json.dumps(content))
        self.world.barrier()
        return episodes, facts

    def _file(self, number: int) -> Path:
        return self.folder / f"rollout-{number:08d}.json"

    def _saved(self, number: int) -> dict[str, Any] | None:
        """A rollout that was sampled before, also by an interrupted run. Collective."""
        file = self._file(number)
        if not all(self.world.gather(file.is_file())):
            return None
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def answer(
        self, rows: Sequence[int], first: int, prompts: Prompts | None = None, greedy: bool = False
    ) -> list[Episode]:
        """Answers of the policy as it is to rows of the prompts. Collective. first: the number of the first answer."""
        prompts = prompts or self.prompts
        assert self.model is not None
        requests = [Request(prompts.tokens[row], first + i) for i, row in enumerate(rows)]
        completions = self.sampler.sample(self.model, requests, greedy)
        return [
            Episode(row, prompts.tokens[row], found.tokens, found.log_p, found.stopped, self.decode(found.tokens))
            for row, found in zip(rows, completions, strict=True)
        ]

    def score(self, episodes: Sequence[Episode], prompts: Prompts) -> None:
        """Set the rewards. Collective: each rank scores its share."""
        rank, size = self.world.rank, self.world.size
        mine = [
            Answer(prompts.messages[e.row], e.text, prompts.rows[e.row], not e.stopped) for e in episodes[rank::size]
        ]
        parts = self.world.gather(self.scorer(mine))
        for number, episode in enumerate(episodes):
            episode.rewards = parts[number % size][number // size]
            episode.reward = self.scorer.total(episode.rewards)

    @torch.no_grad()
    def _look_back(self, episodes: Sequence[Episode]) -> None:
        """Log-probabilities (and values) before the first step on this rollout, where the method needs them."""
        assert self.model is not None and self.precision is not None
        if self.config.rollout_steps > 1 or hasattr(self.model, "value_head"):
            self._measure(self.model, episodes, "old_log_p", "old_values")
        if self.reference is not None:
            with self.reference() as model:
                self._measure(model, episodes, "reference_log_p")

    def _measure(self, model: nn.Module, episodes: Sequence[Episode], name: str, values: str = "") -> None:
        assert self.precision is not None
        training = model.training
        model.eval()
        found: dict[int, tuple[list[float], list[float] | None]] = {}
        for numbers, batch in self._packed(episodes, self.world.rank, self.world.size):
            moved = batch.to(self.world.device)
            terms = policy_terms(model, moved, self.precision, self.config.rollout.temperature, entropy=False)
            where = (moved.labels != IGNORED).flatten()
            lengths = [len(episodes[number].tokens) for number in numbers]
            log_p = terms.log_p_N[where].cpu().split(lengths)
            value = [None] * len(numbers) if terms.value_N is None else terms.value_N[where].cpu().split(lengths)
            for number, p, v in zip(numbers, log_p, value, strict=True):
                found[number] = p.tolist(), None if v is None else v.tolist()
        model.train(training)
        for others in self.world.gather(found):
            found.update(others)
        for number, episode in enumerate(episodes):
            setattr(episode, name, found[number][0])
            if values:
                setattr(episode, values, found[number][1])

    def _facts(self, episodes: Sequence[Episode]) -> dict[str, float]:
        rewards = np.array([episode.reward for episode in episodes])
        lengths = np.array([len(episode.tokens) for episode in episodes])
        facts = {"reward": float(rewards.mean()), "reward_std": float(rewards.std())}
        for name in episodes[0].rewards:
            facts[f"reward/{name}"] = float(np.mean([episode.rewards[name] for episode in episodes]))
        facts["answer_tokens"] = float(lengths.mean())
        facts["truncated_share"] = float(np.mean([not episode.stopped for episode in episodes]))
        return facts

    def clear(self) -> None:
        """Remove all rollouts, at the end of the run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _clean(self, step: int) -> None:
        """Remove rollouts that no trainer checkpoint goes back to."""
        kept = saved_steps.steps(self.directory)
        oldest = int(kept[0].name.removeprefix("step-")) if kept else 0
        first = oldest // self.config.rollout_steps
        for file in self.folder.glob("rollout-*.json"):
            if int(file.stem.removeprefix("rollout-")) < first - 1:
                file.unlink()


_COLUMNS = ("advantages", "sampler_log_p", "old_log_p", "reference_log_p", "old_values", "returns")


def _column(episodes: Sequence[Episode], name: str) -> list[np.ndarray] | None:
    values = [getattr(episode, name) for episode in episodes]
    return None if not values or values[0] is None else [np.array(value) for value in values]


def require_columns(scorer: Scorer, prompts: Prompts, path: str) -> None:
    """Raises UserError, naming the table, when a reward reads a column that is not there."""
    try:
        scorer.check(prompts.rows)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
