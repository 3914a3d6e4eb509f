"""The second map: policies on the measured columns. No text is read."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import rows, signals
from data_engine.language import LanguageConfig
from data_engine.measure import Folders
from data_engine.policies import Policies, Rule
from data_engine.policies.base import Verdict, judge
from data_engine.sources import Shard
from data_engine.tables import TableWriter

SCHEMA = pa.schema([("reason", pa.string()), ("value", pa.float64()), ("threshold", pa.float64())])
"""One row for each row of the shard's measured file; all null where the document stays."""

_COLUMNS = ["language", "language_score", "signals"]


def decide_shard(shard: Shard, language: LanguageConfig, policies: Policies, folders: Folders) -> dict[str, Any]:
    """Judge a measured shard. Writes its verdicts, and the narrow rows of what stays, sorted by text digest."""
    measured = pq.read_table(folders.measured(shard.name), columns=_COLUMNS)
    verdict = judge_table(measured, language, policies)
    stays = np.array([reason is None for reason in verdict.reasons], bool)
    table = rows.load(folders.scratch("rows", shard.name))[stays]
    rows.save(folders.scratch("staying", shard.name), np.sort(table, order=["text_hi", "text_lo", "id_hi", "id_lo"]))
    with TableWriter(folders.scratch("decided", shard.name, "parquet"), SCHEMA) as writer:
        columns = [verdict.reasons, verdict.values, verdict.thresholds]
        writer.write(pa.table([pa.array(column, from_pandas=True) for column in columns], SCHEMA))
    return {"documents": measured.num_rows, "staying": int(stays.sum())}


def judge_table(measured: pa.Table, language: LanguageConfig, policies: Policies) -> Verdict:
    """The verdict on rows with `language`, `language_score`, `signals`: no text, language, then the policies."""
    verdict = Verdict.clear(measured.num_rows)
    if not measured.num_rows:
        return verdict
    values = signals.from_arrow(measured["signals"])
    verdict.apply("extract", Rule("empty", "characters", at_least=1), values["characters"])
    scores = measured["language_score"].to_numpy()
    if language.allow is not None:
        unwanted = ~np.isin(np.asarray(measured["language"].to_pylist(), object).astype(str), language.allow)
        verdict.mark("language:not_allowed", unwanted, scores, np.nan)
    verdict.apply("language", Rule("low_score", "language_score", at_least=language.min_score), scores)
    judge(policies.enabled(), values, verdict)
    return verdict


def counts_of(shard: Shard, folders: Folders) -> dict[str, Any]:
    """What the first map counted of a shard: documents, quarantined, skipped records by kind."""
    metadata = pq.read_metadata(folders.measured(shard.name)).metadata
    counts: dict[str, Any] = json.loads(metadata[b"raymill"])
    return counts
