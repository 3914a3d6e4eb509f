"""Run directories: opened once, resumed when the same work was interrupted, committed by a manifest written last."""

import fcntl
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from core import manifest, progress, storage
from core.config import StageConfig
from core.errors import RaymillError, UserError
from core.manifest import FileDigest, Manifest
from core.report import Report

STATE = "run.json"
"""Which work a run directory is for."""
LOCK = "run.lock"
"""Held while it is worked on."""
_LOG = "run.log"
_EARLIER = ".earlier"
_OWN_FILES = {manifest.NAME, STATE, LOCK, _LOG, "report.html"}


class _LogFile(logging.FileHandler):
    """A log that a full disk costs its lines, not a traceback for each of them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """What cannot be written is not."""


class Run:
    """One execution of a stage in its run directory.

    `directory` is a local folder; everything a stage writes lies below it. `resumed` says that an earlier run with
    the same identity (configuration, input digests, schema version) was interrupted and left its shards here.
    keeps: folders of a finished artifact that a run of another identity may go on from; see `earlier`.
    """

    def __init__(self, stage: str, schema_version: int, config: StageConfig, keeps: Sequence[str] = ()) -> None:
        if storage.is_remote(config.output):
            raise UserError(f"output: {config.output}: a run directory must be a local or mounted folder")
        self.stage = stage
        self.schema_version = schema_version
        self.config = config
        self.keeps = keeps
        self.anew = False
        """Whether to begin with an empty directory, set before it is opened."""
        self.directory = Path(config.output)
        self.inputs = [digest for path in config.input_paths() for digest in manifest.digest_input(path)]
        self.identity = self._identity()
        self.log = logging.getLogger(f"raymill.{stage}")
        self.timings: dict[str, float] = {}
        self.resumed = False
        self._started = time.monotonic()
        self._lock: int | None = None
        self._log_handler: logging.Handler | None = None

    def _identity(self) -> str:
        described = {
            "stage": self.stage,
            "schema_version": self.schema_version,
            "config": self.config.identity(),
            "inputs": [entry.model_dump() for entry in self.inputs],
        }
        return storage.digest_bytes([json.dumps(described, sort_keys=True, default=str).encode()])

    # --- life ---------------------------------------------------------------------------------------------------

    def up_to_date(self) -> Manifest | None:
        """The manifest when this very work is already done and its files are there, else None."""
        found = manifest.read(self.directory)
        if found is None or found.identity != self.identity or not self.config.reusable:
            return None
        return found if all(self.path(output.path).is_file() for output in found.outputs) else None

    def __enter__(self) -> "Run":
        self._claim()
        try:
            self._prepare()
            self._log_handler = _LogFile(self.path(_LOG), encoding="utf-8")
        except OSError as error:
            self.__exit__(type(error), error)
            raise
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.log.addHandler(self._log_handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if self._log_handler is not None:
            self.log.removeHandler(self._log_handler)
            with suppress(OSError):  # the last line may not fit on the disk either
                self._log_handler.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if error is not None and storage.is_full(error):
            raise RaymillError(
                f"{self.directory}: no space left to write ({os.strerror(error.errno or 0)}); free some and run the "
                "same command again: it goes on from what is there"
            ) from error

    def _claim(self) -> None:
        """Take the directory's lock; the kernel frees it when this process dies, however it dies."""
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"output: {self.directory} is a file; name a folder")
        if self.directory.is_dir() and any(self.directory.iterdir()) and not self._is_run_directory():
            raise UserError(f"output: {self.directory} holds files that no run wrote; name an empty or new folder")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path(LOCK), os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise UserError(
                f"output: {self.directory} cannot be written: {error.strerror}; name another folder"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise UserError(f"output: {self.directory} is in use by another run; wait for it or stop it") from None

    def _is_run_directory(self) -> bool:
        return any(self.path(name).exists() for name in (STATE, manifest.NAME, LOCK))

    def _prepare(self) -> None:
        """Keep what an interrupted run of the same identity left; clear what another one left, but for `keeps`.

        A kill at any moment of clearing leaves a directory without a state, which the next run clears.
        """
        state, done = self.path(STATE), self.path(manifest.NAME)
        try:
            left = json.loads(state.read_text(encoding="utf-8"))["identity"] if state.exists() else None
        except (ValueError, KeyError):
            left = None
        if left == self.identity and not self.anew:
            self.resumed = not done.exists()
            done.unlink(missing_ok=True)
            return
        state.unlink(missing_ok=True)
        finished = manifest.read(self.directory) is not None
        if finished or self.anew:  # of a run that was killed just after it was committed
            _remove(self.path(_EARLIER))
        if finished and self.keeps and not self.anew:
            done.replace(self.folder(_EARLIER) / manifest.NAME)
        done.unlink(missing_ok=True)
        if (earlier := self.earlier()) is None:
            self._begin()
            return
        of_it = {output.path for output in earlier.outputs}
        for file in [file for name in self.keeps for file in self.path(name).rglob("*") if file.is_file()]:
            if str(file.relative_to(self.directory)) not in of_it:
                file.unlink()  # left by an interrupted run of yet another identity
        self._begin(_EARLIER, *self.keeps)

    def _begin(self, *spared: str) -> None:
        for entry in self.directory.iterdir():
            if entry.name not in (LOCK, *spared):
                _remove(entry)
        state = {"stage": self.stage, "identity": self.identity}
        storage.write_atomic(self.path(STATE), json.dumps(state) + "\n")

    def earlier(self) -> Manifest | None:
        """The manifest of the finished artifact that was here, when its folders of `keeps` are still here."""
        return manifest.read(self.path(_EARLIER))

    def forget_earlier(self) -> None:
        """Clear all that is here: what an earlier artifact left is of no use to this run."""
        self.path(STATE).unlink(missing_ok=True)
        _remove(self.path(_EARLIER))
        self._begin(_LOG)

    # --- during -------------------------------------------------------------------------------------------------

    def path(self, *parts: str) -> Path:
        """A path inside the run directory."""
        return self.directory.joinpath(*parts)

    def folder(self, *parts: str) -> Path:
        """A folder inside the run directory, made when missing."""
        folder = self.path(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to `timings[name]`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - began, 3)

    def progress(self, description: str, total: float | None = None, unit: str = "") -> "progress.Progress":
        """A context manager with `.advance(n, **facts)`: a live bar on a terminal, plain lines in a log."""
        return progress.Progress(self.log, description, total, unit)

    # --- end ----------------------------------------------------------------------------------------------------

    def commit(
        self,
        counts: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        report: Report | None = None,
    ) -> Manifest:
        """Write the report, digest every output, write the manifest. After this the artifact exists."""
        self.timings["total"] = round(time.monotonic() - self._started, 3)
        committed = Manifest(
            stage=self.stage,
            schema_version=self.schema_version,
            identity=self.identity,
            config=self.config.model_dump(mode="json"),
            inputs=self.inputs,
            outputs=self._outputs(),
            counts=counts or {},
            metrics=metrics or {},
            timings=self.timings,
            versions=manifest.versions(),
            seed=self.config.seed,
        )
        if report is not None:
            _say_how(report, committed)
            storage.write_atomic(self.path("report.html"), report.render())
        storage.write_atomic(self.path(manifest.NAME), committed.model_dump_json(indent=2) + "\n")
        _remove(self.path(_EARLIER))
        return committed

    def _outputs(self) -> list[FileDigest]:
        """Every file below the directory but the run's own and hidden ones; names with a leading dot are scratch."""
        outputs = []
        for path in sorted(self.directory.rglob("*")):
            relative = path.relative_to(self.directory)
            if not path.is_file() or any(part.startswith(".") for part in relative.parts):
                continue
            if len(relative.parts) == 1 and relative.name in _OWN_FILES:
                continue
            outputs.append(FileDigest(path=str(relative), digest=storage.digest_file(str(path))))
        return outputs


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _say_how(report: Report, made: Manifest) -> None:
    """The last sections of every report: when and where it ran, and with which settings."""
    facts = {
        "stage": made.stage,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": made.timings["total"],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "seed": made.seed,
    }
    report.facts("How this was made", facts)
    texts = {
        "settings": made.config,
        "seconds of each step": made.timings,
        "packages": made.versions,
        "inputs": {entry.path: entry.digest for entry in made.inputs},
    }
    report.samples(
        "In full",
        [(name, yaml.safe_dump(value, sort_keys=False, allow_unicode=True)) for name, value in texts.items() if value],
        f"All of it, with a digest of every output, is in {manifest.NAME} beside this page.",
    )
