"""`serve up` to ready, Ray already up, beside the start of vLLM's own server: `python benchmarks/serving_start.py`.

A Llama of 100 M parameters and random weights, FP32, eager. Ours is the whole command, its imports among them, until it
has answered its probe and written its artifact; theirs is the process until its /health answers. In turn, three times.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml
from harness import write
from serving_sides import MODEL, ROOT, bare, free_port, random_model, scratch

from serving.engine import EngineSettings

RUNS = 3
SETTINGS = EngineSettings(dtype="float32", max_num_seqs=8, kv_cache_gib=0.25)


def ours(checkpoint: Path, folder: Path) -> tuple[float, float]:
    """(seconds of the command, seconds from deploying to ready by its own clock)."""
    config = SETTINGS.model_dump(mode="json", exclude_defaults=True) | {
        "checkpoint": str(checkpoint),
        "output": str(folder / "up"),
        "model_id": MODEL,
        "port": free_port(),
        "keep": True,
    }
    (folder / "up.yaml").write_text(yaml.safe_dump(config))
    began = time.monotonic()
    raymill("serve", "up", str(folder / "up.yaml"), "--address", "auto", folder=folder)
    seconds = time.monotonic() - began
    ready = json.loads((folder / "up" / "manifest.json").read_text())["metrics"]["start_seconds"]
    raymill("serve", "down", folder=folder)
    return seconds, ready


def environment(folder: Path) -> dict[str, str]:
    """A state folder of its own: the cluster of this benchmark is nobody else's."""
    return os.environ | {"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}


def raymill(*arguments: str, folder: Path) -> None:
    """Run the command."""
    command = [sys.executable, "-m", "raymill", *arguments]
    subprocess.run(command, env=environment(folder), check=True, cwd=folder)


def main() -> None:
    """Measure and write."""
    runs: list[float] = []
    ready: list[float] = []
    theirs: list[float] = []
    with scratch() as folder:
        checkpoint = random_model(folder / "model")
        raymill("cluster", "up", "--local", folder=folder)
        try:
            for number in range(RUNS):
                (place := folder / f"run{number}").mkdir()
                (place / "state").symlink_to(folder / "state")
                seconds, alone = ours(checkpoint, place)
                runs.append(round(seconds, 1))
                ready.append(alone)
                began = time.monotonic()
                with bare(checkpoint, SETTINGS, place) as side:
                    side.ready()
                    theirs.append(round(time.monotonic() - began, 1))
                print(f"ours {runs[-1]} s (deploy to ready {ready[-1]} s), bare vLLM {theirs[-1]} s", flush=True)
        finally:
            raymill("cluster", "down", folder=folder)
    write(
        "serve.start_to_ready_seconds",
        statistics.median(runs),
        ours={"command_s": runs, "deploy_to_ready_s": ready},
        theirs={"vllm_server_to_health_s": theirs},
        runs=runs,
    )


if __name__ == "__main__":
    main()
