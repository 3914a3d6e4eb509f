"""Compiled code is kept apart by the vector unit that it was written for."""

import os
import subprocess
import sys

import pytest
import torch

from training.compilation import compiled

SCRIPT = """
import torch
from training.compilation import compiled
torch.manual_seed(0)
x = torch.randn(64, 100)
loss = compiled(lambda x: (x - x.amax(1, keepdim=True)).exp().sum(1).log().sum())(x)
print(float(loss), torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])
"""


def run(cache, capability):
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    loss, hits = done.stdout.split()
    return float(loss), int(hits)


@pytest.mark.slow
def test_processes_with_other_units_share_a_cache_and_no_code(tmp_path):
    wide, again, narrow = (run(tmp_path, unit) for unit in ("avx2", "avx2", "default"))
    assert (wide[1], again[1], narrow[1]) == (0, 1, 0)
    assert wide[0] == again[0] == pytest.approx(narrow[0], rel=1e-5)


def test_the_users_own_tag_stays(monkeypatch):
    monkeypatch.setenv("TORCH_COMPILE_CACHE_KEY_TAG", "mine")
    compiled(torch.sin)
    assert torch.compiler.config.cache_key_tag == f"mine-{torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.delenv("TORCH_COMPILE_CACHE_KEY_TAG")
    compiled(torch.sin)
    assert torch.compiler.config.cache_key_tag == torch.backends.cpu.get_cpu_capability()
