"""What every benchmark needs: test data, one core, alternating timings, the machine in words, the result file."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def test_data(name: str) -> Path:
    """A file of the test data folder: RAYMILL_TEST_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("RAYMILL_TEST_DATA", HERE.parent.parent / "shared" / "data"))
    path = folder / name
    if not path.exists():
        sys.exit(f"{path}: no such file; RAYMILL_TEST_DATA names the folder of the test data")
    return path


def one_thread() -> None:
    """Keep libraries that are imported from now on to one thread: a figure per core is of one core."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "ARROW_NUM_THREADS"):
        os.environ[name] = "1"


def cpu_seconds(work: Callable[[], object], times: int = 1) -> float:
    """Processor time of one call, the median over `times` calls. Unlike the clock it does not count what other
    processes of a shared machine take; for work of one thread without waiting the two are the same."""

    def once() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return statistics.median(once() for _ in range(times))


def processor_seconds() -> float:
    """What this process and all below it, Ray's daemons and workers that have ended among them, took of a processor."""
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


@contextlib.contextmanager
def spent_in(module: Any, name: str) -> Iterator[list[float]]:
    """The processor time of each call of a function of a module within the block."""
    function, spent = getattr(module, name), []

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            spent.append(time.process_time() - began)

    setattr(module, name, timed)
    try:
        yield spent
    finally:
        setattr(module, name, function)


def machine() -> str:
    """Processor, cores, vector units and memory of this machine."""
    from serving import hardware  # takes seconds: it asks torch

    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{hardware.describe()}, {gibibytes:.0f} GiB"


def commit() -> str:
    """The commit that was measured, with '+' where the tree held more than it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
    written = [f":(top,exclude){path}" for path in ("benchmarks/results", "docs/benchmarks.md")]
    dirty = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *written], cwd=HERE, check=False)
    return head.stdout.strip() + ("+" if dirty.returncode else "")


def write(claim: str, value: float, ours: object, theirs: object, runs: list[float], **more: object) -> None:
    """Write the result of a claim, or a figure that no claim is made of, and print it. value: the figure; runs: its
    value in each run; ours, theirs: the two sides in their own unit; more: whatever explains the figure."""
    arguments = sys.argv[1:]
    if "--folder" in arguments:  # where it worked is no part of what it did
        place = arguments.index("--folder")
        del arguments[place : place + 2]
    known = {entry["id"]: entry for entry in json.loads((HERE / "claims.json").read_text(encoding="utf-8"))}
    result = {
        "id": claim,
        "value": value,
        "ours": ours,
        "theirs": theirs,
        "runs": runs,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *arguments]),
        "commit": commit(),
        **more,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{claim}.json").write_text(text, encoding="utf-8")
    if claim not in known:
        print(f"{claim}: {value:.4g}")
        return
    bar, better = known[claim]["bar"], known[claim]["better"]
    holds = value >= bar if better == "higher" else value <= bar
    print(f"{claim}: {value:.4g} (bar {bar}, aim {known[claim]['aim']}): {'holds' if holds else 'MISSED'}")
