"""`raymill data tokenize`: documents to an indexed, immutable set of tokens, with a tokenizer trained on them."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, field_validator
from transformers import PreTrainedTokenizerBase

from cluster import runtime
from core import checkpoint, storage
from core.config import InputPath, StageConfig
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.report import Report, bar_chart
from core.run import Run
from core.stage import Stage
from core.token_set import INDEX, TOKENIZER, TOKENS, dtype_for
from data_engine import byte_level_bpe, text_pieces
from data_engine.corpus import Shard, list_corpora, read_documents, text_bytes
from data_engine.shard_map import map_tasks
from data_engine.split import TRAIN, VALIDATION, VALIDATION_FRACTION, split_of
from data_engine.tokenize_shard import PARTS, part_path, tokenize_shard, tokens_name

_MEBIBYTE = 1 << 20
_PIECES = ".pieces"
"""Scratch folder of the run: plain texts as documents."""


class TokenizeConfig(StageConfig):
    """Settings of `raymill data tokenize`."""

    documents: InputPath | dict[str, InputPath] = Field(
        description="documents artifact, or Parquet files with the columns id and text, or one plain text (.txt), "
        "which is cut into documents; or several, as name -> path: then the name is the source of its documents, for "
        "train.pretrain's mixture"
    )
    tokenizer: InputPath | None = Field(
        None, description="Hugging Face tokenizer directory to use; none trains a byte-level BPE on the train split"
    )
    vocab_size: int = Field(
        4096, description="entries of the trained vocabulary, the 256 bytes and 4 control tokens among them"
    )
    training_text_mib: float = Field(
        256, gt=0, description="text to train the tokenizer on at most; documents are sampled by a hash of their id"
    )
    validation_fraction: float = Field(
        VALIDATION_FRACTION, ge=0, lt=1, description="share of documents held out, by a stable hash of the document id"
    )

    @field_validator("vocab_size")
    @classmethod
    def _holds_every_byte(cls, value: int) -> int:
        if value < byte_level_bpe.SMALLEST_VOCABULARY:
            raise ValueError(f"must be at least {byte_level_bpe.SMALLEST_VOCABULARY}: 256 bytes and the control tokens")
        return value


def tokenize(config: TokenizeConfig, run: Run) -> Manifest:
    """Documents in, tokens out: every document once, in the order of the shards."""
    shards = list_corpora(_with_texts_cut(config.documents, run))
    with run.timing("tokenizer"):
        tokenizer = _tokenizer(config, shards, run)
    vocabulary = len(tokenizer)
    dtype = dtype_for(vocabulary)
    parts = _encode(config, shards, run, tokenizer.eos_token_id, dtype.str)
    index = _merge(parts)
    _check(index, shards)
    index = index.replace_schema_metadata({"dtype": dtype.str, "separator": str(tokenizer.eos_token_id)})
    pq.write_table(index, run.path(INDEX), compression="zstd")
    for leftover in run.folder(TOKENS).glob(".*.tmp"):
        leftover.unlink()
    shutil.rmtree(run.path(PARTS))
    shutil.rmtree(run.path(_PIECES), ignore_errors=True)
    languages, sources = _grouped(index, "language"), _grouped(index, "source")
    counts = {
        "documents": index.num_rows,
        "tokens": _sum(index, "tokens"),
        "bytes": _sum(index, "bytes"),
        "words": _sum(index, "words"),
        "shards": len(shards),
        **{f"{split}_{what}": value for split, row in _splits(index).items() for what, value in row.items()},
    }
    metrics: dict[str, Any] = {
        "vocabulary": vocabulary,
        "dtype": dtype.name,
        "tokens_per_word": _ratio(counts["tokens"] - counts["documents"], counts["words"]),
        "bytes_per_token": _ratio(counts["bytes"], counts["tokens"] - counts["documents"]),
        "languages": {row["name"]: [row["tokens_per_word"], row["bytes_per_token"]] for row in languages},
        "sources": {row["name"]: row["tokens"] for row in sources},
    }
    metrics["headline"] = _headline(counts, metrics, languages)
    return run.commit(
        counts=counts, metrics=metrics, report=_report(config, counts, metrics, languages, sources, tokenizer)
    )


def _with_texts_cut(documents: str | dict[str, str], run: Run) -> str | dict[str, str]:
    """The same paths, but for a plain text that of its pieces, which it writes."""
    if isinstance(documents, dict):
        return {name: _cut(path, run, name) for name, path in documents.items()}
    return _cut(documents, run, "text")


def _cut(path: str, run: Run, name: str) -> str:
    if not path.endswith(text_pieces.ENDING):
        return path
    target = run.path(_PIECES, f"{name}.parquet")
    text_pieces.write_documents(path, target)
    return str(target)


# --- the tokenizer ------------------------------------------------------------------------------------------------


def _tokenizer(config: TokenizeConfig, shards: list[Shard], run: Run) -> PreTrainedTokenizerBase:
    """The tokenizer in `tokenizer/`: left by an interrupted run, copied from the one configured, or trained."""
    final = run.path(TOKENIZER)
    if not final.is_dir():
        unfinished = run.path(f".{TOKENIZER}")
        shutil.rmtree(unfinished, ignore_errors=True)
        if config.tokenizer is None:
            sample = _training_texts(config, shards)
            byte_level_bpe.save(byte_level_bpe.train(sample, config.vocab_size), unfinished)
        else:
            checkpoint.load_tokenizer(config.tokenizer).save_pretrained(unfinished, save_jinja_files=False)
        if not (unfinished / "tokenizer.json").is_file():
            raise UserError(f"tokenizer: {config.tokenizer}: has no fast tokenizer (tokenizer.json); convert it first")
        unfinished.rename(final)
    tokenizer = checkpoint.load_tokenizer(final)
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer: {config.tokenizer}: names no eos_token, so nothing can end a document")
    return tokenizer


def _training_texts(config: TokenizeConfig, shards: list[Shard]) -> Iterator[str]:
    """Texts of the train split; of a large corpus the share whose hashed id falls below the sampling rate."""
    rate = config.training_text_mib * _MEBIBYTE / max(1, sum(text_bytes(shard.path) for shard in shards))
    for shard in shards:
        for batch in read_documents(shard.path, ("id", "text")):
            for identifier, text in zip(batch["id"], batch["text"], strict=True):
                if split_of(identifier, config.validation_fraction) == TRAIN and _sampled(
                    identifier, rate, config.seed
                ):
                    yield text


def _sampled(identifier: str, rate: float, seed: int) -> bool:
    digest = storage.digest_bytes([b"tokenizer sample", str(seed).encode(), identifier.encode()])
    return int(digest[:16], 16) < rate * 2**64


# --- encoding -----------------------------------------------------------------------------------------------------


def _encode(config: TokenizeConfig, shards: list[Shard], run: Run, separator: int, dtype: str) -> list[str]:
    """Ray Data over shard descriptors. Returns the part files of all shards in order; finished ones are not redone."""
    parts = run.folder(PARTS)
    descriptors: list[dict[str, Any]] = []
    for shard in shards:
        name = tokens_name(shard.ordinal, storage.digest_file(shard.path))
        path = shard.path if storage.is_remote(shard.path) else os.path.abspath(shard.path)
        descriptors.append({"path": path, "name": name, "source": shard.source})
    missing = [row for row in descriptors if not part_path(parts, row["name"]).is_file()]
    if len(missing) < len(shards):
        run.log.info("%s of %s shards are already encoded", len(shards) - len(missing), len(shards))
    if missing:
        if len(missing) > 1:
            runtime.connect()
        encode = partial(
            tokenize_shard,
            tokenizer_file=str(run.path(TOKENIZER, "tokenizer.json").resolve()),
            tokens_folder=str(run.folder(TOKENS).resolve()),
            parts_folder=str(parts.resolve()),
            separator=separator,
            dtype=dtype,
            validation_fraction=config.validation_fraction,
        )
        map_tasks(run, "tokenize", missing, encode, counted="tokens")
    return [str(part_path(parts, row["name"])) for row in descriptors]


def _merge(parts: list[str]) -> pa.Table:
    return pa.concat_tables([pq.read_table(part) for part in parts]).combine_chunks()


def _check(index: pa.Table, shards: list[Shard]) -> None:
    """Nothing is lost silently: documents in are documents out, and the tokens lie end to end."""
    expected = sum(shard.documents for shard in shards)
    if index.num_rows != expected:
        raise RaymillError(f"tokenize: {expected} documents went in, {index.num_rows} came out; this is a bug")


# --- counting and the report --------------------------------------------------------------------------------------


def _sum(index: pa.Table, column: str) -> int:
    return int(index.column(column).to_numpy().sum())


def _ratio(numerator: float, denominator: float) -> float:
    return round(numerator / denominator, 4) if denominator else 0.0


def _splits(index: pa.Table) -> dict[str, dict[str, int]]:
    rows = {}
    for split in (TRAIN, VALIDATION):
        table = index.filter(pc.equal(index["split"], split))
        rows[split] = {"documents": table.num_rows, "tokens": _sum(table, "tokens"), "bytes": _sum(table, "bytes")}
    return rows


def _grouped(index: pa.Table, column: str) -> list[dict[str, Any]]:
    """Per language or source: documents, words, bytes, tokens without separators, ratios; most documents first."""
    columns = ["words", "bytes", "tokens"]
    named = index.set_column(0, "name", pc.if_else(pc.equal(index[column], ""), "unknown", index[column]))
    totals = named.group_by("name").aggregate([("name", "count"), *((name, "sum") for name in columns)])
    rows = []
    for total in totals.to_pylist():
        row = {"name": total["name"], "documents": total["name_count"]}
        row |= {name: total[f"{name}_sum"] for name in columns}
        row["tokens"] -= row["documents"]
        row |= {"tokens_per_word": _ratio(row["tokens"], row["words"])}
        rows.append(row | {"bytes_per_token": _ratio(row["bytes"], row["tokens"])})
    return sorted(rows, key=lambda row: (-row["documents"], row["name"]))


def _headline(counts: dict[str, int], metrics: dict[str, Any], languages: list[dict[str, Any]]) -> list[str]:
    shown = ", ".join(f"{row['name']} {row['tokens_per_word']:.2f}" for row in languages[:8])
    return [
        f"{counts['documents']:,} documents, {counts['tokens']:,} tokens: {counts['train_tokens']:,} to train on, "
        f"{counts['validation_tokens']:,} held out",
        f"vocabulary of {metrics['vocabulary']:,}, {metrics['bytes_per_token']:.2f} bytes per token",
        f"tokens per word: {shown}",
    ]


def _report(
    config: TokenizeConfig,
    counts: dict[str, int],
    metrics: dict[str, Any],
    languages: list[dict[str, Any]],
    sources: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
) -> Report:
    report = Report("Tokenize", f"{counts['documents']:,} documents, {counts['tokens']:,} tokens")
    report.facts(
        "In short",
        {
            "documents": counts["documents"],
            "tokens": counts["tokens"],
            "vocabulary": metrics["vocabulary"],
            "tokens per word": metrics["tokens_per_word"],
            "bytes per token": metrics["bytes_per_token"],
            "stored as": metrics["dtype"],
            "tokenizer": config.tokenizer or "byte-level BPE trained on the train split",
        },
    )
    splits = [
        [split, *(counts[f"{split}_{what}"] for what in ("documents", "tokens", "bytes"))]
        for split in (TRAIN, VALIDATION)
    ]
    report.table(
        "Splits",
        ["split", "documents", "tokens", "bytes"],
        splits,
        f"A document is held out when the hash of its id falls below {config.validation_fraction}. "
        "Tokens count the separator that closes each document.",
    )
    columns = ["documents", "words", "bytes", "tokens", "tokens_per_word", "bytes_per_token"]
    for title, rows in (("Languages", languages), ("Sources", sources)):
        report.table(
            title,
            [title.lower().removesuffix("s"), *(column.replace("_", " ") for column in columns)],
            [[row["name"], *(row[column] for column in columns)] for row in rows],
            "Words are runs of letters and digits; in scripts written without spaces each letter counts as a word.",
        )
    shown = languages[:20]
    report.figure(
        "Tokens per word", bar_chart({row["name"]: row["tokens_per_word"] for row in shown}, "tokens per word")
    )
    report.figure(
        "Bytes per token", bar_chart({row["name"]: row["bytes_per_token"] for row in shown}, "bytes per token")
    )
    report.samples("Vocabulary", _vocabulary_sample(tokenizer))
    return report


def _vocabulary_sample(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    size = len(tokenizer)
    spelled = {token: tokenizer.decode([token]) for token in range(size)}
    longest = sorted(spelled, key=lambda token: (-len(spelled[token]), token))[:60]
    spread = range(0, size, max(1, size // 120))
    return [
        (
            f"{len(spread)} entries, frequent to rare",
            "\n".join(f"{token:>6} {spelled[token]!r}" for token in spread),
        ),
        ("the 60 longest entries", "\n".join(f"{token:>6} {spelled[token]!r}" for token in longest)),
    ]


STAGE = Stage(name="data.tokenize", version=1, config=TokenizeConfig, run=tokenize)
