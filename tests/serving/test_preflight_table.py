import json
import runpy
import subprocess

import pytest
from typer.testing import CliRunner

from serving import hardware, preflight, preflight_table
from serving.hardware import PROFILES, Hardware
from tests.conftest import ROOT


def test_the_page_of_formats_is_what_the_tables_say():
    rendered = runpy.run_path(str(ROOT / "docs" / "render_formats.py"))["page"]()
    assert (ROOT / "docs" / "formats.md").read_text() == rendered, "run `make docs`"


def test_every_cell_without_a_note_runs_and_every_note_is_referred_to():
    columns, rows, notes = preflight_table.matrix()
    assert columns == ["format", *PROFILES]
    assert len(rows) == len(preflight.FORMATS)
    cells = [cell for row in rows for cell in row[1:]]
    for number in range(1, len(notes) + 1):
        assert any(cell.endswith(f"[{number}]") for cell in cells)
    assert all(cell == "yes" or "[" in cell for cell in cells)


def test_the_command_says_it_for_this_machine_and_for_a_checkpoint(tmp_path, raymill_here):
    done = raymill_here("serve", "preflight")
    assert done.returncode == 0
    assert "int8_w8a8" in done.stdout
    assert "nvfp4" in done.stdout
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "head_dim": 64}))
    (tmp_path / "model.safetensors").touch()
    done = raymill_here("serve", "preflight", tmp_path)
    assert done.returncode == 0
    assert "speculation: n-gram" in done.stdout
    done = raymill_here("serve", "preflight", tmp_path / "absent")
    assert done.returncode == 2
    assert "no such checkpoint directory" in done.stderr


@pytest.fixture
def vllm_says(monkeypatch):
    """A vLLM of another version, on a machine with AVX2, whose registry answers so."""

    def answer(**formats):
        said = {name: {"AVX2": [ok, "Kernel"]} for name, ok in formats.items()}
        monkeypatch.setattr(hardware, "detect", lambda *_: Hardware(avx2=True))
        done = subprocess.CompletedProcess([], 0, json.dumps(said), "")
        monkeypatch.setattr(preflight_table.subprocess, "run", lambda *_, **__: done)
        monkeypatch.setattr(preflight, "vllm_version", lambda: "0.31.0")

    return answer


def test_a_vllm_that_disagrees_ends_the_command_with_1_unless_it_is_known_why(vllm_says):
    from raymill.cli import app

    vllm_says(int8_w8a8=True, int4_w4a16=True)
    done = CliRunner().invoke(app, ["serve", "preflight", "--ask"])
    assert done.exit_code == 0, done.output
    assert "vLLM 0.31.0 is installed" in done.output
    assert "vllm#55613" in preflight_table.asked()[1][2]
    vllm_says(int8_w8a8=False)
    assert preflight_table.asked() == [["int8_w8a8", "none: Kernel", "no"]]
    done = CliRunner().invoke(app, ["serve", "preflight", "--ask"])
    assert done.exit_code == 1
