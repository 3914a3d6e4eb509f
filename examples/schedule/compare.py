"""Does the shape of the schedule beat a tuned constant rate? Small pretrainings of one model, one page with the curves.

    python examples/shakespeare/prepare.py tinyshakespeare.txt runs/shakespeare/tokens
    python examples/schedule/compare.py runs/shakespeare/tokens runs/schedule

For each peak rate, one run holds it to the end and one lets it fall over the last half (warmup, stable, decay); both
warm up alike, see the same tokens in the same order, and are measured on the same held-out ones. The best rate of
either shape stands for it. A run that is up to date is reused. The model and its budget are those of the Shakespeare
example: a run that ends while its loss still falls steeply, whatever the rate, shows no difference.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from core.report import Report, line_chart
from core.storage import write_atomic
from training import metrics, pretrain

RATES = (0.00025, 0.0005, 0.001, 0.002, 0.004)
SHAPES = {
    "constant": {"warmup": 0.05, "decay": 0.0},
    "warmup, stable, decay": {"warmup": 0.05, "decay": 0.5},
}


def train(task: tuple[str, str, str, float, int]) -> list[tuple[int, float]]:
    """One run; its (step, held-out bits per byte) curve."""
    tokens, output, shape, rate, steps = task
    directory = Path(output) / f"{shape.replace(', ', '-')}-{rate:g}"
    settings: dict[str, Any] = {
        "output": str(directory),
        "tokens": tokens,
        "model": {"hidden_size": 128, "layers": 4, "heads": 4, "intermediate_size": 344, "max_length": 64},
        "sequence_length": 64,
        "batch_size": 12,
        "micro_batch": 12,
        "steps": steps,
        "optimizer": {"learning_rate": rate},
        "schedule": SHAPES[shape],
        "precision": "fp32",
        "workers": 0,
        "threads": 1,
        "validate_every": max(1, steps // 10),
        "validation_tokens": 65_536,
        "logs": [],
    }
    pretrain.STAGE.execute(pretrain.PretrainConfig.model_validate(settings))
    rows = metrics.read(directory)
    return [(row["step"], row["validation_bits_per_byte"]) for row in rows if row["validation_loss"] is not None]


def report(curves: dict[tuple[str, float], list[tuple[int, float]]], steps: int) -> Report:
    """The page: the best of each shape over the steps, all rates over the end."""
    ends = {key: curve[-1][1] for key, curve in curves.items()}
    best = {shape: min(RATES, key=lambda rate: ends[shape, rate]) for shape in SHAPES}
    constant, decay = (ends[shape, best[shape]] for shape in SHAPES)
    page = Report("A schedule against a tuned constant rate", f"{len(curves)} runs of {steps} steps")
    page.facts("Held-out bits per byte", {"best constant rate": constant, "best with decay": decay})
    lines = {
        f"{shape}, peak {best[shape]:g}": tuple(map(list, zip(*curves[shape, best[shape]], strict=True)))
        for shape in SHAPES
    }
    page.figure("The best rate of each shape", line_chart(lines, "step", "bits per byte"))
    over = {shape: (list(RATES), [ends[shape, rate] for rate in RATES]) for shape in SHAPES}
    page.figure("At the end, by peak rate", line_chart(over, "peak rate", "bits per byte"))
    rows = [[f"{rate:g}", *(ends[shape, rate] for shape in SHAPES)] for rate in RATES]
    page.table("Every run", ["peak rate", *SHAPES], rows)
    return page


def main() -> None:
    """Train, two runs at a time, and write OUTPUT/report.html."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", help="run directory of 'data tokenize'")
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    keys = [(shape, rate) for shape in SHAPES for rate in RATES]
    tasks = [(arguments.tokens, str(arguments.output), shape, rate, arguments.steps) for shape, rate in keys]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        curves = dict(zip(keys, pool.map(train, tasks), strict=True))
    write_atomic(arguments.output / "report.html", report(curves, arguments.steps).render())
    for (shape, rate), curve in curves.items():
        print(f"{shape}, peak {rate:g}: {curve[-1][1]:.4f} bits per byte")
    print(arguments.output / "report.html")


if __name__ == "__main__":
    main()
