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
torch._inductor.config.cpp_cache_precompile_headers = False  # takes longer than it spares
torch.manual_seed(0)
x = torch.randn(64, 100)
loss = compiled(lambda x: (x - x.amax(1, keepdim=True)).exp().sum(1).log().sum())(x)
counters = torch._dynamo.utils.counters["inductor"]
print(float(loss), counters["fxgraph_cache_hit"], counters["fxgraph_cache_miss"])
"""


def run(cache, capability):
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    loss, hits, misses = done.stdout.split()
    return float(loss), int(hits), int(misses)


@pytest.mark.slow
def test_processes_with_other_units_share_a_cache_and_no_code(tmp_path):
    wide, narrow = run(tmp_path, "avx2"), run(tmp_path, "default")
    assert wide[1:] == narrow[1:] == (0, 1)
    assert wide[0] == pytest.approx(narrow[0], rel=1e-5)


def test_the_users_own_tag_stays(monkeypatch):
    monkeypatch.setenv("TORCH_COMPILE_CACHE_KEY_TAG", "mine")
    compiled(torch.sin)
    assert torch.compiler.config.cache_key_tag == f"mine-{torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.delenv("TORCH_COMPILE_CACHE_KEY_TAG")
    compiled(torch.sin)
    assert torch.compiler.config.cache_key_tag == torch.backends.cpu.get_cpu_capability()
