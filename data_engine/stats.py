"""`raymill data stats`: a page to browse what is in a documents artifact, and what was rejected, by which rule."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from core import manifest
from core.config import InputPath, StageConfig
from core.errors import UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from data_engine import stats_report
from data_engine.census import Census
from data_engine.policies import Policies


class StatsConfig(StageConfig):
    """Settings of `raymill data stats`."""

    documents: InputPath = Field(description="documents artifact, or Parquet files with the columns id and text")
    samples_per_rule: int = Field(5, ge=0, description="rejected texts shown of each rule")
    kept_samples: int = Field(4, ge=0, description="kept texts shown of each of the largest languages")
    clusters: int = Field(12, ge=0, description="largest clusters of near copies shown with their differences")
    sample_characters: int = Field(1500, gt=0, description="of each text shown, at most")
    plotted_documents: int = Field(
        200_000, gt=0, description="documents behind the histograms at most, every k-th of all; counts are exact"
    )


def stats(config: StatsConfig, run: Run) -> Manifest:
    """Count, sample, draw."""
    with run.timing("count"):
        census = Census(config.documents)
        languages = census.tally(census.documents, "language")
        sources = census.tally(census.documents, "source")
        kept = census.documents.count_rows()
        measured = census.everything.count_rows()
        reasons = Counter(census.rejects["reason"].to_pylist())
        built = manifest.read(config.documents)
        quarantined = int(built.counts.get("quarantined", 0)) if built is not None else 0
        policies = _policies(built)
        if census.measured is not None and kept + reasons.total() != measured:
            raise UserError(
                f"{config.documents}: {measured:,} documents were measured, but {kept:,} kept and {reasons.total():,} "
                "rejected do not add up to that; the artifact is incomplete, build it again"
            )
    with run.timing("sample"):
        sample = census.sample(config.plotted_documents)
        rejected = pc.is_in(sample["id"], census.rejects["id"].cast(pa.string()).combine_chunks())
        personal = census.placeholders(3)
    with run.timing("report"):
        found = stats_report.Found(
            kept, measured, quarantined, languages, sources, reasons, sample, rejected.to_numpy(), personal, policies
        )
        report = stats_report.render(config, census, found)
    counts = {
        "documents": kept,
        "measured": measured,
        "rejected": dict(reasons.most_common()),
        "languages": dict(languages.most_common()),
        "sources": dict(sources.most_common()),
        "personal_data": {kind: held.count for kind, held in personal.items()},
    }
    copies = sum(count for reason, count in reasons.items() if reason.startswith("dedup:"))
    headline = [
        f"{kept:,} documents in {len(languages):,} languages from {len(sources):,} sources; of {measured:,} measured "
        f"{reasons.total() - copies:,} were rejected by {sum(not r.startswith('dedup:') for r in reasons)} rules, "
        f"{copies:,} as copies"
    ]
    return run.commit(counts=counts, metrics={"headline": headline}, report=report)


def _policies(built: Manifest | None) -> Policies:
    """The thresholds of the stage that wrote the documents; the defaults where it had none, or older ones."""
    try:
        return Policies.model_validate(built.config.get("policies", {})) if built is not None else Policies()
    except ValidationError:
        return Policies()


STAGE = Stage(name="data.stats", version=1, config=StatsConfig, run=stats)
