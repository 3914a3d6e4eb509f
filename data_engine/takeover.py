"""What an earlier build measured of the same shards, taken over: only new input is measured."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import manifest
from core.errors import UserError
from core.manifest import FileDigest, Manifest
from core.run import Run
from data_engine.measure import Folders, MeasureConfig
from data_engine.sources import Shard

STAGE_NAME = "data.build"
KEEPS = ("measured", "sketches", "signatures", "quarantine")
"""Folders with the files of measured shards."""
_PARSERS = ("trafilatura", "resiliparse", "lxml", "pypdf", "charset-normalizer", "pygments", "fasttext", "datasketch")
"""Packages that make texts, languages and signatures."""

log = logging.getLogger("raymill.data")


@dataclass(frozen=True)
class Measuring:
    """How a build measures: its settings, the digests of its inputs, the schema version of its stage.

    inputs: lists and models are compared by content, wherever they lie. parse: settings of a manifest to this part.
    """

    config: MeasureConfig
    inputs: Sequence[FileDigest]
    schema_version: int
    parse: Callable[[dict[str, Any]], MeasureConfig]

    def difference(self, found: Manifest) -> str | None:
        """Why what another build measured is not what this one would measure, or None."""
        if found.schema_version != self.schema_version:
            return (
                f"was built by another version of Raymill (schema version {found.schema_version}, "
                f"here {self.schema_version})"
            )
        installed = manifest.versions()
        for name in _PARSERS:
            theirs, ours = found.versions.get(name), installed.get(name)
            if theirs is not None and theirs != ours:
                return f"was measured with {name} {theirs}, here {ours}"
        try:
            theirs_decisive = _decisive(self.parse(found.config), found.inputs)
        except ValueError:
            return "was built by another version of Raymill"
        decisive = _decisive(self.config, self.inputs)
        common = theirs_decisive.keys() & decisive.keys()
        differing = sorted(name for name in common if theirs_decisive[name] != decisive[name])
        return f"was measured with another {', '.join(differing)}" if differing else None


def take_over(run: Run, reuse: str | None, shards: Sequence[Shard], measuring: Measuring, folders: Folders) -> int:
    """Take over what was measured of these shards: by the finished build that was in the output before, and by `reuse`.

    Returns how many of the shards these measured. Raises UserError when `reuse` is no build, or measured otherwise; an
    earlier build of the output that measured otherwise is forgotten, unless `reuse` asks for it.
    """
    here = reuse is not None and os.path.realpath(reuse) == os.path.realpath(run.directory)
    taken = set()
    if (earlier := run.earlier()) is not None:
        if (why := measuring.difference(earlier)) is None:
            taken = {Path(output.path).stem for output in earlier.outputs if output.path.startswith("measured/")}
        elif here:
            raise _refusal(reuse, why)
        else:
            log.info("what was in %s %s: measured anew", run.directory, why)
            run.forget_earlier()
    if reuse is not None and not here:
        found = manifest.require(reuse, STAGE_NAME)
        if (why := measuring.difference(found)) is not None:
            raise _refusal(reuse, why)
        taken |= _linked(Folders(reuse), shards, folders)
    return sum(shard.name in taken for shard in shards)


def drop_others(shards: Sequence[Shard], folders: Folders) -> None:
    """Remove what was measured of shards that are no longer among the input."""
    names = {shard.name for shard in shards}
    for kind in KEEPS:
        for file in folders.directory.joinpath(kind).glob("*"):
            if file.stem not in names:
                file.unlink()


def _refusal(reuse: str | None, why: str) -> UserError:
    return UserError(f"reuse: {reuse} {why}; use the same or leave out reuse")


def _linked(earlier: Folders, shards: Sequence[Shard], folders: Folders) -> set[str]:
    """Link (or copy) what was measured of these shards; the names of those that were.

    A shard's name is a digest of its content, so equal names are equal input; files are never changed in place, so a
    hard link is safe.
    """
    taken = {shard.name for shard in shards if earlier.measured(shard.name).exists()}
    for name in taken:
        if not folders.measured(name).exists():
            # `measured` is last: a shard is measured when it is there
            for kind in (Folders.quarantine, Folders.sketch, Folders.signatures, Folders.measured):
                _link(kind(earlier, name), kind(folders, name))
    return taken


def _link(source: Path, target: Path) -> None:
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def _decisive(config: MeasureConfig, inputs: Sequence[FileDigest]) -> dict[str, Any]:
    """The settings that decide what is measured of a shard, files by their content.

    Paths of sources are not among them: a shard's name stands for its content. Nor are thresholds.
    """
    content = config.model_dump(mode="json")
    sources = {f"source '{source['name']}'": source for source in content.pop("sources")}
    for source in sources.values():
        del source["paths"]
    language, dedup, url = (content.pop(name) for name in ("language", "dedup", "url"))
    del content["policies"]
    decisive = {
        **content,
        **sources,
        "language.model": language["model"],
        **{f"url.{name}": value for name, value in url.items()},
        **{f"policies.{name}": value for name, value in config.policies.shaping().items()},
        **{f"dedup.{name}": dedup[name] for name in ("near", "shingle", "permutations")},
    }
    contents = {entry.path: entry.digest for entry in inputs}
    return {name: _by_content(value, contents) for name, value in decisive.items()}


def _by_content(value: Any, contents: Mapping[str, str]) -> Any:
    """The same with the digest of a file in the place of its path."""
    if isinstance(value, list | tuple):
        return [_by_content(item, contents) for item in value]
    return contents.get(value, value) if isinstance(value, str) else value
