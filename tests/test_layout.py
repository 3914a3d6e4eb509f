"""The shape of the house: import direction, file sizes, docstrings, artifact names."""

import ast

import pytest

from raymill import registry
from tests.conftest import ROOT

STAGES = {"data_engine", "training", "evaluation", "serving"}
MAY_IMPORT = {
    "core": set(),
    "cluster": {"core"},
    **{stage: {"core", "cluster"} for stage in STAGES},
    "raymill": {"core", "cluster", *STAGES},
}
OURS = set(MAY_IMPORT)


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_run_one_way(package):
    for path in sources(package):
        wrong = (set(imports(path)) & OURS) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_core_knows_no_ray():
    assert [path for path in sources("core") if "ray" in set(imports(path))] == []


def test_training_knows_ray_in_one_file_only():
    with_ray = {path.name for path in sources("training") if {"ray", "cluster"} & set(imports(path))}
    assert with_ray <= {"launch.py", "rollout.py"}


def test_kernels_and_policies_know_neither_ray_nor_files():
    for folder in ("kernels", "policies"):
        for path in sources(f"data_engine/{folder}"):
            assert not {"ray", "pathlib", "fsspec", "os"} & set(imports(path)), path


@pytest.mark.parametrize("package", sorted(OURS))
def test_files_are_small_and_say_what_they_are_for(package):
    for path in sources(package):
        text = path.read_text()
        assert len(text.splitlines()) <= 500, path
        assert ast.get_docstring(ast.parse(text)), f"{path} opens with no line on what it is for"


def test_every_command_is_a_stage_of_that_name():
    for name in registry.MODULES:
        stage = registry.load(name)
        assert stage.name == name
        for field, info in stage.config.model_fields.items():
            assert info.description, f"{name}: {field} has no description"


def test_no_top_level_folder_without_a_reason():
    known = {*OURS, "tests", "benchmarks", "examples", "docs", "requirements", "runs"}
    folders = {entry.name for entry in ROOT.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    folders = {name for name in folders if not name.endswith(".egg-info") and name != "__pycache__"}
    assert folders <= known, f"say in docs/architecture.md why there is {folders - known}"
