"""torch.compile, with a cache on disk that another processor's code cannot spoil."""

import os
from collections.abc import Callable
from typing import Any

import torch

_TAG = "TORCH_COMPILE_CACHE_KEY_TAG"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile(function), found again in the cache only by processes with the same vector unit.

    Inductor's key of a graph does not name it (torch 2.13). Code written for AVX-512, taken by a process held to AVX2
    from a cache that both use (a shared TORCHINDUCTOR_CACHE_DIR, an image of a machine), is compiled with the other's
    flags without a word, and every loss is not a number.
    """
    unit = torch.backends.cpu.get_cpu_capability()
    torch.compiler.config.cache_key_tag = "-".join(filter(None, (os.environ.get(_TAG), unit)))
    return torch.compile(function)
