"""MinHash as configured: the permutations, the bands, and what the two promise."""

from functools import cache
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from core.config import Config, InputPath

FAMILY = "affine32"
"""The hash functions of datasketch 2.0 that signatures are made with."""


class DedupConfig(Config):
    """Removal of copies: byte-equal texts, and texts whose sets of word sequences overlap."""

    exact: bool = Field(True, description="remove documents with the same text")
    near: bool = Field(True, description="remove documents nearly the same, found by MinHash and verified")
    threshold: float = Field(0.75, gt=0, le=1, description="least Jaccard similarity of shingle sets to remove")
    shingle: int = Field(5, ge=1, description="words in a shingle; FineWeb 5, Data-Juicer 5, Zyda 13")
    permutations: int = Field(112, ge=1, description="length of a signature; FineWeb 112")
    bands: int | Literal["optimal"] = Field(
        14,
        description="bands of a signature; FineWeb 14 of 8 rows. 'optimal' minimises the area of false positives and "
        "negatives at the threshold, datasketch's rule",
    )
    rows: int = Field(8, ge=1, description="rows in a band; with bands 'optimal' it is chosen too")
    survivor: Literal["longest", "best_quality", "oldest"] = Field(
        "longest", description="which of a cluster stays; the smallest id decides ties"
    )
    index: bool = Field(
        False, description="write index/: later builds that name this artifact in dedup.against remove what is in it"
    )
    against: list[InputPath] = Field(
        default_factory=list, description="earlier artifacts with an index; copies of their documents are removed"
    )
    bucket_pairs: int = Field(64, ge=2, description="up to this size, all pairs of a bucket are candidates")
    bucket_anchors: int = Field(8, ge=1, description="in a larger bucket, each against this many smallest ids")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.bands != "optimal" and self.bands * self.rows > self.permutations:
            raise ValueError(
                f"bands x rows is {self.bands * self.rows}, more than the {self.permutations} permutations"
            )
        if self.index and not (self.exact and self.near):
            raise ValueError("an index needs dedup.exact and dedup.near")
        return self

    def shape(self) -> tuple[int, int]:
        """Bands and rows."""
        if self.bands == "optimal":
            return optimal_bands(self.threshold, self.permutations)
        return self.bands, self.rows


def optimal_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows that minimise false positive plus false negative area, as datasketch's MinHashLSH chooses them."""
    from datasketch.lsh import _optimal_param

    bands, rows = _optimal_param(threshold, permutations, 0.5, 0.5)
    return int(bands), int(rows)


def collision_probability(similarity: float, bands: int, rows: int) -> float:
    """P(s) = 1 - (1 - s^r)^b: how likely two documents of Jaccard similarity s share a band."""
    return 1.0 - (1.0 - similarity**rows) ** bands


@cache
def permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The a and b, (count,) uint32, of datasketch 2.0's family affine32 for a seed."""
    from datasketch import MinHash

    a, b = MinHash(num_perm=count, seed=seed, scheme=FAMILY).permutations
    return a, b
