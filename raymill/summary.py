"""The end of a recipe: what each stage made, and the index of the reports."""

import os
from collections.abc import Sequence
from pathlib import Path

from core import manifest, storage
from core.manifest import Manifest
from core.report import Report
from raymill import console
from raymill.recipe import Recipe, Result

_REPORT = "report.html"


def show(recipe: Recipe, results: Sequence[Result]) -> None:
    """Print one block for each stage and write the index page."""
    console.say()
    console.say(f"{recipe.name}: {len(results)} stages, {sum(result.seconds for result in results):,.0f} s")
    for result in results:
        took = "up to date, reused" if result.reused else f"{result.seconds:,.0f} s"
        console.say()
        console.say(f"{result.step.name}  ({result.step.stage.name}, {took})")
        for line in headline(result.manifest):
            console.say(f"  {line}")
    console.say()
    console.say(f"reports: {write_index(recipe)}")


def headline(made: Manifest) -> list[str]:
    """The lines a stage puts under `metrics.headline` of its manifest: what it made, in numbers."""
    return [str(line) for line in made.metrics.get("headline", [])]


def write_index(recipe: Recipe) -> Path:
    """One page that links the stages' reports, beside their run directories, with the lines of each."""
    report = Report(recipe.name, "What each stage made, in order. A stage's name opens its report.")
    made = [(name, manifest.read(os.path.join(recipe.output, name))) for name in recipe.stages]
    links = [
        (f"{name} ({found.stage}, {found.timings['total']:,.0f} s)", os.path.join(name, _REPORT), headline(found))
        for name, found in made
        if found is not None and Path(recipe.output, name, _REPORT).is_file()
    ]
    report.links("Stages", links)
    path = Path(recipe.output, "index.html")
    storage.write_atomic(path, report.render())
    return path
