"""What Ray Train costs beside torch's elastic agent (torchrun), and how soon training goes on after a killed worker.

Overhead: the same pretraining (10 M parameters, two workers of one thread, a checkpoint every ten steps) under both, in
turn; seconds per step are read off the log from outside, so that checkpoints and reports count. Two such workers fill
two cores, so what Ray's own processes take of a core is part of it; one worker alone, which leaves them a core, is
measured beside it. Recovery: a worker of Ray Train is killed with -9 half way between two checkpoints; measured is the
time until the next optimizer step is done, which repeats one that was lost, and beside it the time until a step that
had not been done before.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import harness
import psutil
from training_setup import TEN_MILLION, documents, write_tokens

from tests.killing import kill_one, ray_workers
from training import metrics

ROUNDS, STEPS, WARM, KILLS = 2, 40, 10, 3


@contextmanager
def training(folder: Path, name: str, launcher: str, steps: int, workers: int = 2) -> Iterator[subprocess.Popen]:
    """`raymill train pretrain` in a process of its own."""
    settings = {
        "output": str(folder / name),
        "tokens": str(folder / "tokens"),
        "model": TEN_MILLION.model_dump(),
        "sequence_length": 256,
        "steps": steps,
        "batch_size": 8,
        "micro_batch": 4,
        "precision": "fp32",
        "checkpoint_every": 10,
        "validation_tokens": 2048,
        "launcher": launcher,
        "workers": workers,
        "threads": 1,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "raymill", "train", "pretrain", str(folder / f"{name}.yaml")]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=harness.HERE.parent, stdout=log, stderr=log)
        try:
            yield process
        finally:
            for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                one.terminate()
            process.wait()


def step_reached(directory: Path, process: subprocess.Popen, step: int) -> float:
    """When the log first held this step."""
    while not (rows := metrics.read(directory)) or rows[-1]["step"] < step:
        if process.poll() is not None:
            sys.exit(f"the training ended before step {step}; see {directory}.log")
        time.sleep(0.02)
    return time.perf_counter()


def seconds_per_step(folder: Path, name: str, launcher: str, workers: int) -> float:
    with training(folder, name, launcher, STEPS, workers) as process:
        began = step_reached(folder / name, process, WARM)
        return (step_reached(folder / name, process, STEPS) - began) / (STEPS - WARM)


def recoveries(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds from each kill to the next step, and to the first new one; a step's own time is among them."""
    found, new = [], []
    with training(folder, "killed", "ray", 10**6) as process:
        reached = 15
        for number in range(KILLS):
            step_reached(folder / "killed", process, reached)
            workers = [one for one in ray_workers(psutil.Process(process.pid)) if "TrainWorker" in one.cmdline()[0]]
            assert kill_one(workers, Random(number)), "no worker was found"
            began = time.perf_counter()
            last = metrics.read(folder / "killed")[-1]["step"]
            found.append(next_step(folder / "killed", process, last) - began)
            new.append(step_reached(folder / "killed", process, last + 1) - began)
            reached = last // 10 * 10 + 15
            print(f"kill {number} at step {last}: {found[-1]:.1f} s, to a new step {new[-1]:.1f} s")
    return found, new


def next_step(directory: Path, process: subprocess.Popen, last: int) -> float:
    """When the log, cut back to the checkpoint's step, first grew again."""
    while not (rows := metrics.read(directory)) or rows[-1]["step"] >= last:
        if process.poll() is not None:
            sys.exit(f"the training ended; see {directory}.log")
        time.sleep(0.02)
    return step_reached(directory, process, rows[-1]["step"] + 1)


def beside(folder: Path, workers: int) -> tuple[list[float], list[float]]:
    """Seconds per step under Ray Train and under torchrun, in each round."""
    ray, torchrun = [], []
    for number in range(ROUNDS):
        torchrun.append(seconds_per_step(folder, f"torchrun-{workers}-{number}", "torchrun", workers))
        ray.append(seconds_per_step(folder, f"ray-{workers}-{number}", "ray", workers))
        print(f"{workers} workers, round {number}: Ray Train {ray[-1]:.3f}, torchrun {torchrun[-1]:.3f} s per step")
    return ray, torchrun


def overhead(folder: Path) -> None:
    ray, torchrun = beside(folder, 2)
    over = [one / other - 1 for one, other in zip(ray, torchrun, strict=True)]
    middle = statistics.median
    spare = middle(one / other - 1 for one, other in zip(*beside(folder, 1), strict=True))
    more = {"unit": "seconds per step", "with_a_core_to_spare": spare}
    harness.write("train.ray_overhead", middle(over), middle(ray), middle(torchrun), over, **more)


def recovery(folder: Path) -> None:
    seconds, new = recoveries(folder)
    more = {"unit": "s", "to_a_new_step": statistics.median(new)}
    value = statistics.median(seconds)
    harness.write("train.recovery_seconds", value, value, None, seconds, **more)


def main() -> None:
    parts = {"overhead": overhead, "recovery": recovery}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder / "tokens", documents(1000))
        for part in sys.argv[1:] or parts:
            parts[part](folder)


if __name__ == "__main__":
    main()
