"""The stage `data build`: raw sources to clean, deduplicated documents."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from cluster import runtime
from core.config import RUNTIME, InputPath, StageConfig
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from data_engine import (
    answer_key,
    build_report,
    classify,
    common_ngrams,
    contamination_report,
    decontaminate,
    dedup_index,
    language,
    near_duplicates,
    repeated_text,
    rows,
    url_filter,
)
from data_engine.balance import Balance, collect
from data_engine.decide import decide_shard
from data_engine.decontaminate import DecontaminationConfig
from data_engine.dedup_index import Earlier, open_earlier
from data_engine.extract import ExtractionConfig
from data_engine.holdings import Holding, Holdings
from data_engine.language import LanguageConfig
from data_engine.measure import Folders, MeasureConfig, measure_shard
from data_engine.minhash import DedupConfig
from data_engine.pii import PiiConfig
from data_engine.policies import Policies
from data_engine.remaining import rejected_since
from data_engine.repeated_text import RepeatedTextConfig, Repeats
from data_engine.shard_map import Task, map_tasks
from data_engine.sources import Shard, Source, list_shards
from data_engine.takeover import KEEPS, STAGE_NAME, Measuring, drop_others, take_over
from data_engine.url_filter import UrlConfig
from data_engine.write import write_shard


class BuildConfig(StageConfig):
    """Settings of `data build`."""

    sources: list[Source] = Field(min_length=1, description="where documents come from")
    extraction: ExtractionConfig = Field(default_factory=ExtractionConfig, description="HTML to main text")
    url: UrlConfig = Field(default_factory=UrlConfig, description="what is rejected by its address, before extraction")
    language: LanguageConfig = Field(default_factory=LanguageConfig, description="language identification")
    policies: Policies = Field(default_factory=Policies, description="quality rules with their thresholds")
    rules: bool = Field(True, description="tell languages and apply the quality rules; false only removes copies")
    dedup: DedupConfig = Field(default_factory=DedupConfig, description="removal of copies")
    repeated_text: RepeatedTextConfig = Field(
        default_factory=RepeatedTextConfig, description="text that documents share, cut out of those that stay"
    )
    decontaminate: DecontaminationConfig = Field(
        default_factory=DecontaminationConfig, description="documents that hold benchmark items"
    )
    pii: PiiConfig = Field(default_factory=PiiConfig, description="personal data that is replaced by placeholders")
    answer_key: InputPath | None = Field(
        None, description="YAML that says what must become of certain pages; a mismatch fails the stage"
    )
    reuse: Annotated[str | None, RUNTIME] = Field(
        None,
        description="an earlier build: what it measured of the same input is taken over, only new input is measured; "
        "the finished build of the same output is taken over without being named",
    )
    max_document_bytes: int = Field(10_000_000, ge=1, description="a longer payload goes to quarantine")
    shard_bytes: int = Field(4 << 20, ge=1 << 10, description="bytes of WARC.gz or JSONL that one task works on")
    rows_per_shard: int = Field(10_000, ge=1, description="rows of Parquet that one task works on; whole row groups")

    @model_validator(mode="after")
    def _quality_is_measured(self) -> Self:
        if not self.rules and self.dedup.survivor == "best_quality":
            raise ValueError("dedup.survivor best_quality needs rules: without them no quality is measured")
        return self

    def measuring(self) -> MeasureConfig:
        """The part that decides what is measured."""
        return MeasureConfig(
            sources=self.sources,
            extraction=self.extraction,
            url=self.url,
            language=self.language,
            policies=self.policies,
            dedup=self.dedup,
            max_document_bytes=self.max_document_bytes,
            rules=self.rules,
            seed=self.seed,
        )


def build(config: BuildConfig, run: Run) -> Manifest:
    """Raw sources to clean, deduplicated documents: measure, decide, remove copies, scrub, write."""
    key = answer_key.load(config.answer_key) if config.answer_key is not None else None
    if config.rules:
        language.load(language.model_path(config.language))
    url_filter.load(config.url)
    for model in config.policies.classifiers.models:
        classify.check(model)
    shards = list_shards(config.sources, run.inputs, config.shard_bytes, config.rows_per_shard)
    folders = Folders(run.directory)
    earlier = open_earlier(config.dedup, config.seed)
    measuring = Measuring(config.measuring(), run.inputs, run.schema_version, _measuring)
    taken = take_over(run, config.reuse, shards, measuring, folders)
    with run.timing("benchmarks"):
        benchmarks = decontaminate.prepare(config.decontaminate, folders)
    if len(shards) > 1:
        runtime.connect()

    tasks = [_task(shards, n) for n in range(len(shards)) if not _is_decided(shards[n], folders)]
    worked = map_tasks(run, "measured", tasks, partial(_measure_and_decide, config, folders), counted="documents")
    balance = collect(shards, folders)
    _refuse_nothing(config, balance)

    names = [shard.name for shard in shards]
    removals, counts = _remove_copies(run, names, earlier, config, folders)
    repeats = repeated_text.find(run, names, removals, config.repeated_text, folders)
    common = common_ngrams.find(run, names, removals, config.decontaminate, folders)

    tasks = [_task(shards, n) for n in range(len(shards)) if not folders.documents(shards[n].name).exists()]
    map_tasks(run, "written", tasks, partial(_write, config, removals, earlier, repeats, folders), counted="documents")
    if config.dedup.index:
        _write_index(run, names, removals, config.dedup, folders)

    drop_others(shards, folders)
    balance = collect(shards, folders)
    balance.check()
    answered = key.check(run.directory) if key is not None else None
    with run.timing("report"):
        report = build_report.render(config, balance, counts, run.directory, answered, worked, run.timings)
        cut = repeated_text.report(report, config.repeated_text, run.directory)
        contaminated = contamination_report.add(report, benchmarks, config.decontaminate, common, run.directory)
    manifest = run.commit(
        counts=balance.counts(),
        metrics=balance.metrics()
        | {"dedup": counts, "shards": {"measured": len(shards) - taken, "reused": taken}}
        | {"headline": _headline(balance, key, answered, contaminated)}
        | ({"repeated_text": cut} if cut else {})
        | ({"contamination": contaminated} if contaminated else {})
        | ({"answer_key": answered} if answered is not None else {}),
        report=report,
    )
    folders.clear()
    return manifest


def _measuring(settings: dict[str, Any]) -> MeasureConfig:
    return BuildConfig.model_validate(settings).measuring()


def _headline(
    balance: Balance,
    key: answer_key.AnswerKey | None,
    answered: str | None,
    contaminated: dict[str, dict[str, int]],
) -> list[str]:
    """What became of the documents, in numbers."""
    copies = {kind: balance.rejected[f"dedup:{kind}"] for kind in ("exact", "near")}
    by_rules = balance.rejected.total() - sum(copies.values())
    lines = [
        f"{balance.read:,} documents read: {balance.kept:,} kept ({balance.kept / balance.read:.0%}), "
        f"{by_rules:,} rejected by rules, {copies['exact']:,} exact and {copies['near']:,} near copies removed, "
        f"{balance.quarantined:,} in quarantine"
    ]
    if key is not None and answered is not None:
        read, kept = balance.read - len(key.pages), balance.kept - key.kept
        lines.append(f"answer key: {answered} pages as expected; of the {read:,} others {kept / max(read, 1):.0%} kept")
    for name, found in contaminated.items():
        if found["items_found"]:
            cut = f", cut {found['documents_cut']:,}" if "documents_cut" in found else ""
            lines.append(
                f"benchmark {name}: items found {found['items_found']:,}, documents removed {found['documents']:,}{cut}"
            )
    if balance.pii:
        replaced = ", ".join(f"{count:,} {kind}" for kind, count in sorted(balance.pii.items()))
        lines.append(f"personal data replaced: {replaced}")
    return lines


def _task(shards: list[Shard], number: int) -> Task:
    return {"number": number, "shard": shards[number]}


def _measure_and_decide(config: BuildConfig, folders: Folders, task: Task) -> dict[str, Any]:
    worked: dict[str, Any] = {"documents": 0, "seconds": {}}
    if not folders.measured(task["shard"].name).exists():
        worked = measure_shard(task["shard"], config.measuring(), folders)
    rules = (config.language, config.policies) if config.rules else None
    decide_shard(task["shard"], task["number"], rules, config.url, config.dedup, folders)
    return worked


def _write(
    config: BuildConfig, removals: list[Path], earlier: Earlier, repeats: Repeats, folders: Folders, task: Task
) -> dict[str, Any]:
    return write_shard(
        *(task["shard"], task["number"], removals, earlier, config.dedup.threshold),
        *(config.repeated_text, repeats, config.decontaminate, config.pii, folders),
    )


def _is_decided(shard: Shard, folders: Folders) -> bool:
    return folders.scratch("decided", shard.name, "parquet").exists()


def _remove_copies(
    run: Run, names: list[str], earlier: Earlier, config: BuildConfig, folders: Folders
) -> tuple[list[Path], dict[str, int]]:
    """The files of removals, and what was counted."""
    own = [Holding(folders.sketch(name), folders.measured(name)) for name in names]
    corpus = near_duplicates.Corpus(names, Holdings(own, earlier.holdings), earlier, config.dedup, folders)
    exact = near = near_duplicates.Removals([], {})
    if config.dedup.exact:
        exact = near_duplicates.remove_exact(run, corpus)
    if config.dedup.near:
        near = near_duplicates.remove_near(run, corpus, exact)
    return [*exact.files, *near.files], exact.counts | near.counts


def _write_index(run: Run, names: list[str], removals: list[Path], dedup: DedupConfig, folders: Folders) -> None:
    """The index of the documents that are written: what came after the removal of copies may have rejected some."""
    late = [folders.scratch("rejected_since", name) for name in names]
    tasks = [{"number": n, "name": name} for n, name in enumerate(names) if not late[n].exists()]
    map_tasks(run, "rejected since", tasks, partial(_rejected_since, removals, folders))
    holdings = [Holding(folders.sketch(name), folders.measured(name)) for name in names]
    texts, bands = ([folders.scratch(step, name) for name in names] for step in ("staying", "bands"))
    dedup_index.write(run, holdings, texts, bands, [*removals, *late], dedup, folders)


def _rejected_since(removals: list[Path], folders: Folders, task: Task) -> dict[str, Any]:
    refs = rejected_since(task["name"], task["number"], removals, folders)
    rows.save(folders.scratch("rejected_since", task["name"]), refs.view([("ref", "<u8")]))
    return {}


def _refuse_nothing(config: BuildConfig, balance: Balance) -> None:
    """Raises when there is no document: UserError when the input bears none, RaymillError when none is readable."""
    where = ", ".join(path for source in config.sources for path in source.paths)
    if not balance.read:
        skipped = ", ".join(f"{count:,} x {kind}" for kind, count in balance.skipped.items())
        raise UserError(
            f"{where}: no document in it{f' (records skipped: {skipped})' if skipped else ''}; name other paths"
        )
    if not balance.documents:
        raise RaymillError(
            f"{where}: nothing readable; the first of {balance.quarantined:,} errors: {balance.first_error}"
        )


STAGE = Stage(name=STAGE_NAME, version=6, config=BuildConfig, run=build, keeps=KEEPS)
