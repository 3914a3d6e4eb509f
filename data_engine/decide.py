"""The second step on a shard: policies on the measured columns, and the keys by which copies are found."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import rows, signals, url_filter
from data_engine.kernels.shingles import band_keys
from data_engine.language import LanguageConfig
from data_engine.measure import Folders
from data_engine.minhash import DedupConfig
from data_engine.policies import Policies, Rule
from data_engine.policies.base import Verdict, judge
from data_engine.sources import Shard
from data_engine.tables import TableWriter
from data_engine.url_filter import UrlConfig

SCHEMA = pa.schema([("reason", pa.string()), ("value", pa.float64()), ("threshold", pa.float64())])
"""One row for each row of the shard's measured file; all null where the document stays."""

EMPTY = Rule("empty", "characters", at_least=1)
_COLUMNS = ["language", "language_score", "signals"]


def decide_shard(
    shard: Shard,
    number: int,
    rules: tuple[LanguageConfig, Policies] | None,
    url: UrlConfig,
    dedup: DedupConfig,
    folders: Folders,
) -> None:
    """Judge a measured shard. No text is read; without rules only addresses and empty texts are judged.

    Writes the narrow rows of what stays, sorted by text digest, the bands of their signatures, sorted by key, and the
    verdicts, these last.
    """
    table = np.array(rows.load(folders.sketch(shard.name)))
    table["ref"] = rows.refs(number, table.size)
    verdict = Verdict.clear(table.size)
    unwanted = url_filter.load(url)
    if unwanted.active:
        unwanted.judge(pq.read_table(folders.measured(shard.name), columns=["url"])["url"].to_pylist(), verdict)
    if rules is not None:
        judge_table(pq.read_table(folders.measured(shard.name), columns=_COLUMNS), *rules, verdict)
    else:
        verdict.apply("extract", EMPTY, table["characters"].astype(np.float64))
    stays = np.flatnonzero([reason is None for reason in verdict.reasons])
    staying = table[stays]
    rows.save(folders.scratch("staying", shard.name), staying[np.argsort(staying["text_hi"], kind="stable")])
    if dedup.near:
        # a document without a word has no shingle: it resembles nothing
        filled = stays[staying["shingles"] > 0]
        signatures = np.ascontiguousarray(rows.load(folders.signatures(shard.name))[filled])
        rows.save(folders.scratch("bands", shard.name), bands_of(table[filled], signatures, dedup))
    with TableWriter(folders.scratch("decided", shard.name, "parquet"), SCHEMA) as writer:
        columns = [verdict.reasons, verdict.values, verdict.thresholds]
        writer.write(pa.table([pa.array(column, from_pandas=True) for column in columns], SCHEMA))


def bands_of(table: np.ndarray, signatures: np.ndarray, dedup: DedupConfig) -> np.ndarray:
    """The band rows of documents, rows.BAND sorted by key. table: (n,) rows.DOCUMENT; signatures: (n, permutations)."""
    bands, band_rows = dedup.shape()
    keys = np.empty((table.size, bands), np.uint64)
    band_keys(signatures, bands, band_rows, keys)
    by_key = np.argsort(keys.ravel(), kind="stable")
    out = np.zeros(by_key.size, rows.BAND)
    out["key"] = keys.ravel()[by_key]
    out["id"], out["ref"] = table["id_hi"][by_key // bands], table["ref"][by_key // bands]
    return out


def judge_table(measured: pa.Table, language: LanguageConfig, policies: Policies, verdict: Verdict) -> None:
    """Judge rows with `language`, `language_score`, `signals`: no text, language, then the policies of the language."""
    if not measured.num_rows:
        return
    values = signals.from_arrow(measured["signals"])
    verdict.apply("extract", EMPTY, values["characters"])
    scores = measured["language_score"].to_numpy()
    coded = measured["language"].combine_chunks().dictionary_encode()
    labels, of_label = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    if language.allow is not None:
        verdict.mark("language:not_allowed", ~np.isin(labels, language.allow)[of_label], scores, np.nan)
    least = np.array([language.least_score(label) for label in labels])[of_label]
    verdict.mark("language:low_score", scores < least, scores, least)
    if not policies.by_language:
        judge(policies.enabled(), values, verdict)
        return
    for number, label in enumerate(labels):
        which = of_label == number
        part = verdict.of(which)
        judge(policies.of_language(label).enabled(), {name: column[which] for name, column in values.items()}, part)
        verdict.put(which, part)
