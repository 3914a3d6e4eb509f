"""Compiled kernels: what a function calls from another file has changed, and the old code must not run on."""

import os
import subprocess
import sys

from data_engine.kernel_cache import keep_apart
from tests.conftest import ROOT

PROGRAM = """
import sys
from pathlib import Path
from data_engine.kernel_cache import keep_apart
sys.path.insert(0, sys.argv[1])
keep_apart(Path(sys.argv[1]) / "loops")
from loops.outer import twice
print(twice(1.0))
"""
INNER = "import numba\n\n\n@numba.njit(cache=True)\ndef more(x):\n    return x + {more}\n"
OUTER = """import numba

from loops.inner import more


@numba.njit(cache=True)
def twice(x):
    return more(more(x))
"""


def run(folder, **environment):
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    clean = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={**clean, **environment})
    return done.stdout.strip()


def test_a_change_in_a_called_kernel_of_another_file_is_noticed(tmp_path):
    package = tmp_path / "loops"
    package.mkdir()
    (package / "outer.py").write_text(OUTER)
    (package / "inner.py").write_text(INNER.format(more=1.0))
    assert run(tmp_path) == "3.0"
    first = list((package / "__pycache__").glob("numba-*"))
    (package / "inner.py").write_text(INNER.format(more=5.0))
    assert run(tmp_path) == "11.0"
    second = list((package / "__pycache__").glob("numba-*"))
    assert len(first) == len(second) == 1
    assert first != second


def test_a_folder_of_the_users_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    keep_apart(ROOT / "data_engine" / "kernels")
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "mine")
