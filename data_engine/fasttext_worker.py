"""fastText's training in a process of its own, whose memory begins as zeros: `python -m data_engine.fasttext_worker`.

With one thread fastText 0.9.3 initialises a tenth of its matrix (DenseMatrix::uniform) and trains on whatever the rest
of the memory holds: the model does not repeat, or training ends with 'Encountered NaN'. Blocks that malloc maps anew
are zeros, and MALLOC_MMAP_THRESHOLD_ has it map every block of that size.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from core.errors import RaymillError

_FRESH_FROM_BYTES = 4096


def train(training: Path, model: Path, **settings: Any) -> None:
    """Train a supervised model on a file of labelled lines with one thread. Raises RaymillError when it fails."""
    arguments = json.dumps({"input": str(training), "thread": 1, "verbose": 0, **settings})
    done = subprocess.run(
        [sys.executable, "-m", "data_engine.fasttext_worker", arguments, str(model)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(_FRESH_FROM_BYTES)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RaymillError(f"fastText could not train: {last[-1]}; a smaller learning_rate may help")


def _main() -> None:
    import fasttext

    fasttext.train_supervised(**json.loads(sys.argv[1])).save_model(sys.argv[2])


if __name__ == "__main__":
    _main()
