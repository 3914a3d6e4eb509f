"""Speculative decoding where it pays: steps of the engine are timed with and without drafts, and the cheaper way kept.

What a draft costs depends on the hardware and on how many requests share a step; what it brings, on what is asked.
vLLM can only be told a number of drafts for each batch size, before it starts; this decides while it runs.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Way = Literal["draft", "sample", "rest"]
"""draft: as configured. sample: no drafts for a few steps, to time them; a draft model still reads along, or its cache
would have holes. rest: no drafts and no draft model, until they are tried again."""

_BURST = 8  # steps between two decisions; the first of them has the drafts of the one before, and is not counted
_TRY_EVERY = 32  # decisions
_ENOUGH = 12  # steps of a kind, before they are a measure
_KEPT = 0.99  # of what was known, at each step: about a hundred steps are remembered
_MARGIN = 1.05  # drafts are given up when tokens cost this much more with them


@dataclass
class _Cost:
    steps: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        self.steps = self.steps * _KEPT + 1
        self.seconds = self.seconds * _KEPT + seconds
        self.tokens = self.tokens * _KEPT + tokens

    @property
    def known(self) -> bool:
        return self.steps >= _ENOUGH and self.tokens > 0

    @property
    def per_token(self) -> float:
        return self.seconds / self.tokens


class Policy:
    """Chooses for batches of one size; sizes are told apart by powers of two."""

    def __init__(self) -> None:
        self._drafted, self._plain = _Cost(), _Cost()
        self._way: Way = "draft"
        self._steps = 0
        self._decisions = 0

    def choose(self) -> Way:
        """How the step that comes is to be drafted for; called once a step."""
        if self._steps == _BURST:
            self._decisions += 1
            self._way, self._steps = self._decide(), 0
        self._steps += 1
        return self._way

    def _decide(self) -> Way:
        if not self._drafted.known:  # n-grams that are found nowhere cost nothing either
            return "draft"
        if not self._plain.known:
            return "sample"
        pays = self._drafted.per_token <= _MARGIN * self._plain.per_token
        if self._decisions % _TRY_EVERY == 0:
            if pays:
                return "sample"
            self._drafted = _Cost()
            return "draft"
        return "draft" if pays else "rest"

    def observe(self, seconds: float, tokens: int, drafted: bool) -> None:
        """A step of decoding alone took this long for this many tokens; `drafted`: some of them were checked drafts."""
        if self._steps > 1:
            (self._drafted if drafted else self._plain).add(seconds, tokens)


class DraftWatcher:
    """Mixed into vLLM's worker (`worker_extension_cls`), in whose process the steps run."""

    def watch_drafts(self) -> bool:
        """Begin to time steps and to decide. False where the engine drafts ahead of its samples, on GPUs."""
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        if getattr(runner, "use_async_scheduling", True) or not hasattr(runner, "propose_draft_token_ids"):
            return False
        self._watched = _Watched(runner)
        return True

    def draft_share(self) -> float:
        """Share of the last steps of decoding for which drafts were made."""
        watched: _Watched | None = getattr(self, "_watched", None)
        return watched.share if watched is not None else 1.0


class _Watched:
    """The three calls of a step, wrapped."""

    def __init__(self, runner: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share = 1.0
        self._runner, self._clock = runner, clock
        self._policies: defaultdict[int, Policy] = defaultdict(Policy)
        self._began = 0.0
        self._decoding: Policy | None = None
        self._has_drafts = False
        self._execute, self._sample = runner.execute_model, runner.sample_tokens
        self._propose = runner.propose_draft_token_ids
        runner.execute_model, runner.sample_tokens = self._timed_execute, self._timed_sample
        runner.propose_draft_token_ids = self._chosen_propose

    def _timed_execute(self, scheduled: Any, *more: Any, **named: Any) -> Any:
        drafts = sum(map(len, scheduled.scheduled_spec_decode_tokens.values()))
        self._has_drafts = drafts > 0
        requests = len(scheduled.num_scheduled_tokens)
        alone = requests > 0 and scheduled.total_num_scheduled_tokens == requests + drafts
        self._decoding = self._policies[requests.bit_length()] if alone else None
        self._began = self._clock()
        return self._execute(scheduled, *more, **named)

    def _timed_sample(self, *more: Any, **named: Any) -> Any:
        output = self._sample(*more, **named)
        if self._decoding is not None and output is not None:
            tokens = sum(map(len, output.sampled_token_ids))
            self._decoding.observe(self._clock() - self._began, tokens, self._has_drafts)
        return output

    def _chosen_propose(self, scheduled: Any, *more: Any, **named: Any) -> Any:
        way = self._decoding.choose() if self._decoding is not None else "draft"
        if self._decoding is not None:
            self.share = self.share * _KEPT + (1 - _KEPT) * (way == "draft")
        if way == "rest":
            return [[] for _ in range(self._runner.input_batch.num_reqs)]
        if way == "sample":
            scheduled.num_spec_tokens_to_schedule = 0
        return self._propose(scheduled, *more, **named)
