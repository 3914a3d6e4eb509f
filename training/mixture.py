"""Mixtures: how many sequences each source gives to a run, and which source each sequence comes from."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from core.config import Config
from core.errors import UserError

Weight = Annotated[float, Field(ge=0)]
Epochs = Annotated[float, Field(gt=0)]


class MixtureConfig(Config):
    """Shares of the sources in a run's tokens; documents stay where they are, the order is computed from this."""

    by: Literal["source", "language"] = Field("source", description="column of the token index that names the sources")
    weights: dict[str, Weight] | None = Field(
        None,
        min_length=1,
        description="source -> weight; one that is not named, or has weight 0, is left out; "
        "null: each source's number of training tokens",
    )
    temperature: float = Field(
        1.0, gt=0, description="shares are weight^(1/temperature): above 1 lifts small sources (mT5, arXiv:2010.11934)"
    )
    max_epochs: Epochs | dict[str, Epochs] | None = Field(
        4.0,
        description="how often a source is seen at most, one number or source -> number; up to 4 times, repeated text "
        "is about as good as new (arXiv:2305.16264); null: no limit",
    )

    def shares(self, sizes: Mapping[str, int]) -> dict[str, Fraction]:
        """Share of each source by weight alone, summing to 1; sizes: source -> training tokens.

        Raises UserError for a source that does not exist, and when no weight is above 0.
        """
        named = [*(self.weights or {}), *(self.max_epochs if isinstance(self.max_epochs, dict) else {})]
        for name in named:
            if name not in sizes:
                known = ", ".join(sizes)
                raise UserError(f"mixture: {name!r} is no {self.by} of these tokens; there are: {known}")
        given: Mapping[str, float] = self.weights if self.weights is not None else sizes
        weights = {name: Fraction(float(given.get(name, 0)) ** (1 / self.temperature)) for name in sizes}
        total = sum(weights.values())
        if not total:
            raise UserError("mixture.weights: every weight is 0; give at least one source a weight above 0")
        return {name: weight / total for name, weight in weights.items()}

    def epochs(self, source: str) -> float | None:
        """The cap of one source, None where there is none."""
        return self.max_epochs.get(source) if isinstance(self.max_epochs, dict) else self.max_epochs


def allocate(budget: int, shares: Mapping[str, Fraction], caps: Mapping[str, int | None]) -> dict[str, int]:
    """Share out `budget` sequences in proportion to `shares`, none above its cap; the counts sum to the budget.

    What a capped source cannot give goes to the others in proportion (water-filling, as UniMax, arXiv:2304.09151).
    Rounded by largest remainder, ties by name. Raises UserError when all sources together cannot give the budget.
    """
    counts = dict.fromkeys(shares, 0)
    active = {name for name, share in shares.items() if share > 0}
    left = budget
    while active:
        total = sum(shares[name] for name in active)
        wanted = {name: left * shares[name] / total for name in active}
        full = {name: cap for name in active if (cap := caps.get(name)) is not None and wanted[name] >= cap}
        if not full:
            break
        counts |= full
        left -= sum(full.values())
        active -= full.keys()
    if not active:
        if left:
            raise UserError(
                f"mixture: {budget:,} sequences are wanted, its sources give {budget - left:,} within max_epochs; "
                "raise mixture.max_epochs, add documents, or lower steps"
            )
        return counts
    counts |= {name: int(wanted[name]) for name in active}
    remainders = sorted(active, key=lambda name: (counts[name] - wanted[name], name))
    for name in remainders[: budget - sum(counts.values())]:
        counts[name] += 1
    return counts


def interleave(counts: Sequence[int], first: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources of the sequences first .. first + number - 1, and the place of each within its source: (number,) int64.

    The order in which Sainte-Lague's method gives out seats: place j of a source with n sequences stands at time
    (2 j + 1) / 2 n, ties by source. So source i has counts[i] of all sequences, and of any k first ones k's share give
    or take a few. Computed from `first` alone, without a table: for S sources, a sequence at time t has a number
    within S / 2 of t N, N the sum of counts, so only the places near it have to be sorted.
    """
    total = sum(counts)
    assert 0 <= first <= first + number <= total, "beyond the end of the mixture"
    slack = len(counts) // 2 + 2
    times, sources, places, before = [], [], [], 0
    for source, count in enumerate(counts):
        low = max(0, count * first // total - slack)
        high = min(count, count * (first + number) // total + slack)
        place = np.arange(low, high, dtype=np.int64)
        times.append((2 * place + 1) / (2 * count) if count else np.zeros(0))
        sources.append(np.full(len(place), source, np.int64))
        places.append(place)
        before += low
    source_of, place_of = np.concatenate(sources), np.concatenate(places)
    order = np.lexsort((source_of, np.concatenate(times)))[first - before : first - before + number]
    return source_of[order], place_of[order]
