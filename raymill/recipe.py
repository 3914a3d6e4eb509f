"""Recipes: a YAML of stages run in order, each reusing an up-to-date artifact."""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from core import config as core_config
from core import manifest
from core.config import Config, StageConfig
from core.errors import UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from raymill import registry
from raymill.services import Service, free_port, running

log = logging.getLogger("raymill.run")
_REFERENCE = re.compile(r"\$\{([^}]+)\}")


class Recipe(Config):
    """The file's own keys. Below a stage's name stands its configuration, and `use` says which stage it is."""

    name: str = Field(description="shown in the summary")
    output: str = Field(description="folder of the run directories, one for each stage")
    services: dict[str, Service] = Field(default_factory=dict, description="helper processes that some stages need")
    stages: dict[str, dict[str, Any]] = Field(
        min_length=1, description="stages in order: name -> use: data.build, and its settings"
    )


@dataclass(frozen=True)
class Step:
    """One stage of a recipe, ready to run."""

    name: str
    stage: Stage[Any]
    config: StageConfig


@dataclass(frozen=True)
class Result:
    """What a step left."""

    step: Step
    manifest: Manifest
    reused: bool
    seconds: float


class Plan:
    """A recipe read, its references resolved and every stage's settings checked, before anything runs."""

    def __init__(self, path: str | Path, overrides: Sequence[str] = ()) -> None:
        self.path = Path(path)
        data = core_config.load_yaml(self.path)
        stages = data.get("stages")
        if "stages" not in data and "output" in data:
            raise UserError(
                f"{self.path}: holds no stages, so it is no recipe; the configuration of a single stage goes to its "
                f"own command, as in 'raymill data build {self.path}'"
            )
        names = list(stages) if isinstance(stages, dict) else []
        data = core_config.apply_overrides(data, [_into_stages(override, names) for override in overrides])
        declared = data.get("services") or {}
        self.ports = {name: free_port() for name in declared}
        output = str(data.get("output", ""))
        references = {
            "here": str(self.path.parent),
            **{name: f"{output}/{name}" for name in names},
            **{f"{name}.port": str(port) for name, port in self.ports.items()},
        }
        self.recipe = core_config.parse(Recipe, self._resolve(data, references), str(self.path))
        self.steps = [self._step(name, settings) for name, settings in self.recipe.stages.items()]
        self._check_services()

    def _resolve(self, value: Any, references: Mapping[str, str]) -> Any:
        if isinstance(value, dict):
            return {key: self._resolve(item, references) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolve(item, references) for item in value]
        if isinstance(value, str):
            return _REFERENCE.sub(lambda match: self._lookup(match[1], references), value)
        return value

    def _lookup(self, name: str, references: Mapping[str, str]) -> str:
        if name not in references:
            raise UserError(f"{self.path}: ${{{name}}} refers to nothing; this recipe knows: {', '.join(references)}")
        return references[name]

    def _step(self, name: str, settings: Mapping[str, Any]) -> Step:
        used = settings.get("use")
        if used not in registry.MODULES:
            known = ", ".join(registry.MODULES)
            raise UserError(f"{self.path}: stages.{name}.use: {used!r} is no stage; there are: {known}")
        stage = registry.load(used)
        own = {"output": f"{self.recipe.output}/{name}"}
        own |= {key: value for key, value in settings.items() if key != "use"}
        return Step(name, stage, core_config.parse(stage.config, own, f"{self.path}: stages.{name}"))

    def _check_services(self) -> None:
        names = {step.name for step in self.steps}
        for service_name, service in self.recipe.services.items():
            for stage in service.stages:
                if stage not in names:
                    raise UserError(f"{self.path}: services.{service_name}.stages: {stage} is no stage of this recipe")

    def select(self, only: str | None, start: str | None) -> list[Step]:
        """The steps to run. Raises UserError for a name that the recipe has not."""
        names = [step.name for step in self.steps]
        for option, name in (("--only", only), ("--from", start)):
            if name is not None and name not in names:
                raise UserError(f"{option} {name}: {self.path} has no such stage; it has: {', '.join(names)}")
        if only is not None:
            return [self.steps[names.index(only)]]
        return self.steps[names.index(start) :] if start is not None else self.steps

    def run(self, only: str | None = None, start: str | None = None, force: bool = False) -> list[Result]:
        """Run the chosen steps in order; `force` reruns them even when their artifacts are up to date."""
        results = []
        steps = self.select(only, start)
        for number, step in enumerate(steps, 1):
            began = time.monotonic()
            log.info("[%d/%d] %s (%s)", number, len(steps), step.name, step.stage.name)
            done, reused = self._execute(step, force)
            results.append(Result(step, done, reused, time.monotonic() - began))
        return results

    def _execute(self, step: Step, force: bool) -> tuple[Manifest, bool]:
        if not force and (found := Run(step.stage.name, step.stage.version, step.config).up_to_date()) is not None:
            log.info("up to date, reused: %s", step.config.output)
            return step.stage.checked(found), True
        with ExitStack() as stack:
            for name, service in self.recipe.services.items():
                if step.name in service.stages:
                    stack.enter_context(running(name, service))
            return step.stage.execute(step.config, force)

    def preview(self) -> list[tuple[str, str, str, str]]:
        """What `--dry-run` shows: stage, command, run directory, and what would happen."""
        rows, stale = [], False
        for step in self.steps:
            try:
                fresh = not stale and Run(step.stage.name, step.stage.version, step.config).up_to_date() is not None
            except UserError:
                fresh = False
            stale = stale or not fresh
            left = manifest.read(step.config.output) is not None
            would = "reuse" if fresh else "run again" if left else "run"
            rows.append((step.name, step.stage.name, step.config.output, would))
        return rows


def _into_stages(override: str, names: Sequence[str]) -> str:
    """`pretrain.steps=10` means the setting of the stage pretrain."""
    return f"stages.{override}" if override.partition("=")[0].partition(".")[0] in names else override
