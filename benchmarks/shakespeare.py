"""The Shakespeare example as it is written, in the budget of nanoGPT's CPU recipe: held-out nats per character."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

NANOGPT = 1.88
SEEDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
ROOT = harness.HERE.parent
CONFIG = "examples/shakespeare/pretrain.yaml"


def main() -> None:
    text = harness.test_data("text/tinyshakespeare.txt")
    found, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder, "tokens")
        subprocess.run([sys.executable, "examples/shakespeare/prepare.py", text, tokens], cwd=ROOT, check=True)
        for seed in range(SEEDS):
            output = Path(folder, f"model-{seed}")
            settings = [f"output={output}", f"tokens={tokens}", f"seed={seed}"]
            options = [word for setting in settings for word in ("--set", setting)]
            command = [sys.executable, "-m", "raymill", "train", "pretrain", CONFIG, *options]
            subprocess.run(command, cwd=ROOT, check=True)
            manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
            found.append(manifest["metrics"]["validation_loss"])
            seconds.append(manifest["timings"]["train"])
    value = statistics.median(found)
    harness.write(
        "train.shakespeare_val_loss", value, value, NANOGPT, found, unit="nats per character", seconds=seconds
    )


if __name__ == "__main__":
    main()
