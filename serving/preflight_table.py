"""The preflight as tables: for the machine at hand (`raymill serve preflight`), and for docs/formats.md."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core import checkpoint as checkpoints
from core.errors import RaymillError
from serving import hardware, preflight
from serving.hardware import PROFILES, Hardware
from serving.preflight import FEATURES, FORMATS, Verdict

AGREES, DISAGREES = "yes", "no"
_UNITS = {"avx2": "AVX2", "avx512": "AVX-512", "vnni": "VNNI", "bf16": "BF16", "amx": "AMX"}


def for_machine(checkpoint: str | None) -> tuple[str, list[str], list[list[str]]]:
    """(title, columns, rows) of what runs here: all formats, or one checkpoint with what can be built on it."""
    machine = hardware.detect()
    units = [name for unit, name in _UNITS.items() if getattr(machine, unit)]
    title = f"this machine: {machine.name}" + (f" ({', '.join(units)})" if machine.gpu is None else "")
    if checkpoint is None:
        names = [name for name in FORMATS if name != "none"]
        rows = [["full precision", *_cells(preflight.runs("none", machine))]]
        rows += [[name, *_cells(preflight.runs(name, machine))] for name in names]
        return title, ["format", "runs", "why, or what to expect"], rows
    content = checkpoints.check(checkpoint)
    name = preflight.number_format(content)
    rows = [["full precision" if name == "none" else name, *_cells(preflight.serves(content, machine))]]
    for feature, words in FEATURES.items():
        rows.append([words, *_cells(preflight.supports(feature, name, machine, content))])
    return f"{title}\n{checkpoint}", ["format, feature", "works", "why, or what to expect"], rows


def _cells(verdict: Verdict) -> list[str]:
    return ["yes" if verdict.ok else "no", verdict.reason]


def asked() -> list[list[str]]:
    """What vLLM's own registry says for the kind of machine that this one is, and whether the tables say the same.

    Raises RaymillError when vLLM cannot be asked.
    """
    command = [sys.executable, "-m", "serving.kernel_probe"]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RaymillError(f"vLLM cannot be asked: {last}")
    machine, kind = hardware.detect(), _kind()
    rows = []
    for name, answers in json.loads(done.stdout).items():
        ok, kernel = answers[kind]
        known = preflight.PROMISED.get((name, kind)) if ok else None
        agrees = AGREES if ok == _ours(name, machine) else f"no, as known: {known}" if known else DISAGREES
        rows.append([name, kernel if ok else f"none: {kernel}"[:160], agrees])
    return rows


def _ours(name: str, machine: Hardware) -> bool:
    return preflight.runs(name, machine).ok


def _kind() -> str:
    """The profile that this machine is nearest to: the last that asks for nothing that is not here."""
    machine = hardware.detect()
    if machine.gpu is not None:
        fitting = [name for name, kind in PROFILES.items() if kind.gpu is not None and kind.gpu <= machine.gpu]
        return fitting[-1]
    units = ("avx2", "avx512", "bf16", "amx")
    fitting = [
        name
        for name, kind in PROFILES.items()
        if kind.gpu is None and all(getattr(machine, unit) or not getattr(kind, unit) for unit in units)
    ]
    return fitting[-1]


# --- docs/formats.md ----------------------------------------------------------------------------------------------


def matrix() -> tuple[list[str], list[list[str]], list[str]]:
    """(columns, rows, notes): formats by kinds of machine, each cell yes or no with the number of its note."""
    notes: list[str] = []
    rows = []
    for name in FORMATS:
        verdicts = [preflight._runs(name, kind) for kind in PROFILES.values()]
        rows.append([_shown(name), *[_cell(verdict, notes) for verdict in verdicts]])
    return ["format", *PROFILES], rows, notes


def features() -> tuple[list[str], list[list[str]], list[str]]:
    """The same for features, on the formats they depend on."""
    notes: list[str] = []
    rows = []
    for feature, words in FEATURES.items():
        for name in ("none", "int8_w8a8", "int4_w4a16") if feature == "lora" else ("none",):
            verdicts = [preflight.supports(feature, name, kind) for kind in PROFILES.values()]
            rows.append([words + (f", {_shown(name)}" if feature == "lora" else ""), *_row(verdicts, notes)])
    return ["feature", *PROFILES], rows, notes


def _row(verdicts: Sequence[Verdict], notes: list[str]) -> list[str]:
    return [_cell(verdict, notes) for verdict in verdicts]


def _shown(name: str) -> str:
    return "full precision" if name == "none" else f"`{name}`"


def _cell(verdict: Verdict, notes: list[str]) -> str:
    """`yes`, or yes or no with the number of a note that says more."""
    word = "yes" if verdict.ok else "no"
    if verdict == Verdict(True, "runs"):
        return word
    text = verdict.reason.split(" and this is ", maxsplit=1)[0]
    if text not in notes:
        notes.append(text)
    return f"{word} [{notes.index(text) + 1}]"
