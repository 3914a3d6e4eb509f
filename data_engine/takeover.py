"""What an earlier build measured of the same shards, taken over: only new input is measured."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core import manifest
from core.errors import UserError
from core.manifest import FileDigest
from data_engine.measure import Folders, MeasureConfig
from data_engine.sources import Shard

STAGE_NAME = "data.build"


def take_over(
    path: str,
    shards: Sequence[Shard],
    config: MeasureConfig,
    inputs: Sequence[FileDigest],
    parse: Callable[[dict[str, Any]], MeasureConfig],
    folders: Folders,
) -> int:
    """Link (or copy) what `path` measured of these shards. Returns how many of them it measured.

    inputs: of this build, with their digests: lists and models are compared by content, wherever they lie.

    A shard's name is a digest of its content, so equal names are equal input; files are never changed in place, so a
    hard link is safe. Raises UserError when `path` is no build, or measured with other settings.
    """
    found = manifest.require(path, STAGE_NAME)
    earlier = Folders(path)
    try:
        theirs = parse(found.config)
    except ValueError:
        raise UserError(f"reuse: {path} was built by another version; leave out reuse") from None
    _refuse_other_settings(path, _decisive(theirs, found.inputs), _decisive(config, inputs))
    taken = 0
    for shard in shards:
        name = shard.name
        if not earlier.measured(name).exists():
            continue
        taken += 1
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


def _refuse_other_settings(path: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    differing = sorted(name for name in theirs.keys() & ours.keys() if theirs[name] != ours[name])
    if differing:
        raise UserError(f"reuse: {path} was measured with another {', '.join(differing)}; use the same or leave it out")


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
