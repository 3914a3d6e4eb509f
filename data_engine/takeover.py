"""What an earlier build measured of the same shards, taken over: only new input is measured."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core import manifest
from core.errors import UserError
from data_engine.measure import Folders, MeasureConfig
from data_engine.sources import Shard

STAGE_NAME = "data.build"


def take_over(
    path: str,
    shards: Sequence[Shard],
    config: MeasureConfig,
    parse: Callable[[dict[str, Any]], MeasureConfig],
    folders: Folders,
) -> int:
    """Link (or copy) what `path` measured of these shards. Returns how many of them it measured.

    A shard's name is a digest of its content, so equal names are equal input; files are never changed in place, so a
    hard link is safe. Raises UserError when `path` is no build, or measured with other settings.
    """
    found = manifest.require(path, STAGE_NAME)
    earlier = Folders(path)
    try:
        theirs = parse(found.config)
    except ValueError:
        raise UserError(f"reuse: {path} was built by another version; leave out reuse") from None
    _refuse_other_settings(path, theirs, config)
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


def _refuse_other_settings(path: str, theirs: MeasureConfig, ours: MeasureConfig) -> None:
    one, other = _decisive(theirs), _decisive(ours)
    differing = sorted(name for name in one.keys() & other.keys() if one[name] != other[name])
    if differing:
        raise UserError(f"reuse: {path} was measured with another {', '.join(differing)}; use the same or leave it out")


def _decisive(config: MeasureConfig) -> dict[str, Any]:
    """The settings that decide what is measured of a shard. Paths do not: a shard's name stands for its content."""
    content = config.model_dump(mode="json")
    sources = {f"source '{source['name']}'": source for source in content.pop("sources")}
    for source in sources.values():
        del source["paths"]
    language, dedup = content.pop("language"), content.pop("dedup")
    return {
        **content,
        **sources,
        "language.model": language["model"],
        **{f"dedup.{name}": dedup[name] for name in ("near", "shingle", "permutations")},
    }
