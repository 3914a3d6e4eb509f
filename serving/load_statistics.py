"""What a load says about an endpoint: percentiles, throughput, goodput, errors by kind."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import Field

from core.config import Config
from serving.load import OK, Sample

PERCENTILES = (50, 90, 99)


class Objectives(Config):
    """Service levels: a request is good when it keeps every one that is set."""

    ttft_ms: float | None = Field(None, gt=0, description="longest time to the first token, ms")
    tpot_ms: float | None = Field(None, gt=0, description="longest mean time per output token after the first, ms")
    latency_ms: float | None = Field(None, gt=0, description="longest time to the end of the answer, ms")

    def kept(self, sample: Sample) -> bool:
        """Whether an answer is good. One of a single token has no time per token, and keeps that level."""
        measured = [
            (self.ttft_ms, sample.first_token_s),
            (self.tpot_ms, sample.token_s or 0.0),
            (self.latency_ms, sample.latency_s),
        ]
        return all(limit is None or (value is not None and 1000 * value <= limit) for limit, value in measured)

    @property
    def any(self) -> bool:
        """Whether one is set."""
        return any(value is not None for value in self.model_dump().values())


@dataclass(frozen=True)
class Level:
    """One load and what it measured. Times are milliseconds by percentile; None where nothing was measured.

    seconds: from the first request to the end of the last answer; rates are of answers that came whole.
    goodput: good requests per second (Zhong et al. 2024, arXiv:2401.09670); None without objectives.
    """

    mode: str
    load: float
    seconds: float
    requests: int
    answered: int
    errors: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    requests_per_second: float
    output_tokens_per_second: float
    goodput: float | None
    ttft_ms: dict[str, float] | None
    tpot_ms: dict[str, float] | None
    itl_ms: dict[str, float] | None
    latency_ms: dict[str, float] | None
    error_latency_ms: dict[str, float] | None
    late_ms: dict[str, float] | None

    def row(self) -> dict[str, Any]:
        """As it goes into levels.json."""
        return asdict(self)


def summarize(mode: str, load: float, samples: Sequence[Sample], objectives: Objectives) -> Level:
    """mode: `concurrency` or `rate`; load: how many clients, or requests per second."""
    whole = [sample for sample in samples if sample.outcome == OK]
    seconds = max((sample.began_s + sample.latency_s for sample in samples), default=0.0)
    tokens = sum(sample.output_tokens for sample in whole)
    errors = Counter(sample.outcome for sample in samples if sample.outcome != OK)
    assert len(whole) + errors.total() == len(samples)
    good = sum(objectives.kept(sample) for sample in whole)
    return Level(
        mode=mode,
        load=load,
        seconds=seconds,
        requests=len(samples),
        answered=len(whole),
        errors=dict(sorted(errors.items())),
        prompt_tokens=sum(sample.prompt_tokens for sample in whole),
        output_tokens=tokens,
        requests_per_second=_rate(len(whole), seconds),
        output_tokens_per_second=_rate(tokens, seconds),
        goodput=_rate(good, seconds) if objectives.any else None,
        ttft_ms=percentiles(sample.first_token_s for sample in whole),
        tpot_ms=percentiles(sample.token_s for sample in whole),
        itl_ms=percentiles(gap for sample in whole for gap in sample.gaps_s),
        latency_ms=percentiles(sample.latency_s for sample in whole),
        error_latency_ms=percentiles(sample.latency_s for sample in samples if sample.outcome != OK),
        late_ms=percentiles(sample.late_s for sample in samples) if mode == "rate" else None,
    )


def percentiles(seconds: Iterable[float | None]) -> dict[str, float] | None:
    """{"p50": ms, "p90": ms, "p99": ms, "mean": ms}, interpolated; None of nothing."""
    values = [value for value in seconds if value is not None]
    if not values:
        return None
    found = 1000 * np.percentile(values, PERCENTILES)
    named = {f"p{p}": round(float(value), 3) for p, value in zip(PERCENTILES, found, strict=True)}
    return named | {"mean": round(1000 * float(np.mean(values)), 3)}


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
