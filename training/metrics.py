"""The training log `metrics.jsonl`: one row per step."""

import json
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import storage

if TYPE_CHECKING:
    import torch  # `train status` reads this log without waiting for it

METRICS = "metrics.jsonl"

_PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense BF16 peaks of the vendor's data sheets (SXM)."""


class MetricsLog:
    """Appends rows to `metrics.jsonl`. A resumed run first drops the rows after the step it resumes from."""

    def __init__(self, directory: Path, resumed_step: int) -> None:
        self.path = directory / METRICS
        kept = [row for row in read(directory) if row["step"] <= resumed_step]
        self.last: dict[str, Any] = kept[-1] if kept else {}
        storage.write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """One row; other processes see it at once. JSON knows no NaN: what is not finite becomes null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(directory: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`; a last line that is still being written is left out."""
    path = directory / METRICS
    return list(_rows(path.read_text(encoding="utf-8"))) if path.is_file() else []


def _rows(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def peak_memory_gib(device: "torch.device") -> float:
    """Peak memory of this process so far: of the GPU where it trains on one, else resident memory."""
    if device.type == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 2**30, 3)


def peak_flops(device: "torch.device") -> float | None:
    """BF16 peak of the device, None where none is published for it (CPUs, unknown GPUs): MFU is then left empty."""
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAK_FLOPS.items() if key in name), None)
