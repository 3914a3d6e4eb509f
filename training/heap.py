"""glibc's heap, kept from one step to the next on CPUs.

A step asks for some hundred MB of activations and gives them all back. glibc hands what lies free at the end of its
heap to the kernel and takes blocks of many MB straight from it: each page of 4 KB then costs a fault and is filled with
zeros, some 20,000 in a step of 2,048 tokens with 10 M parameters, a twentieth of its time on two cores.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_* of malloc.h
_NEVER = 2**31 - 1
_LARGEST_BLOCK = 32 << 20
"""Bytes; mallopt takes no larger threshold. Blocks above it come from the kernel and go back to it."""


def keep() -> None:
    """Keep what is freed for the next that asks, in this process from now on. Does nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)


@contextmanager
def kept() -> Iterator[None]:
    """`keep`, and what is free at the end of the block goes back to the kernel: for a process that has other work."""
    keep()
    try:
        yield
    finally:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
