import json
import runpy

from serving import preflight, preflight_table
from serving.hardware import PROFILES
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
