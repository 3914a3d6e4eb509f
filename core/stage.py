"""What a stage is: a name, a version of its output, a configuration, and `run(config, run) -> Manifest`."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.config import StageConfig
from core.manifest import Manifest
from core.run import Run

C = TypeVar("C", bound=StageConfig)


@dataclass(frozen=True)
class Stage(Generic[C]):
    """A stage as the front door sees it.

    `version` goes up when the same configuration would write something else: artifacts of an older version are
    then out of date. `check` raises when what the artifact says is a failure, as a quality gate does: the artifact
    is written all the same, and a reused one is checked again. `keeps`: see `Run`.
    """

    name: str
    version: int
    config: type[C]
    run: Callable[[C, Run], Manifest]
    check: Callable[[Manifest], None] | None = None
    keeps: Sequence[str] = ()

    def execute(self, config: C, force: bool = False) -> tuple[Manifest, bool]:
        """Run, or reuse an up-to-date artifact. Returns the manifest and whether it was reused.

        force: do an up-to-date artifact anew, from nothing; what was interrupted goes on all the same.
        """
        run = Run(self.name, self.version, config, self.keeps)
        log = logging.getLogger(f"raymill.{self.name}")
        if (found := run.up_to_date()) is not None:
            if not force:
                log.info("up to date, reused: %s", run.directory)
                return self.checked(found), True
            run.anew = True
        with run:
            if run.resumed:
                log.info("resuming an interrupted run: %s", run.directory)
            return self.checked(self.run(config, run)), False

    def checked(self, manifest: Manifest) -> Manifest:
        """The artifact's manifest, unless what it says is a failure."""
        if self.check is not None:
            self.check(manifest)
        return manifest
