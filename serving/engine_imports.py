"""Imported by the process from which engines are forked: what an engine needs, so that it starts with it."""

import ctypes
import os
import signal

import vllm.model_executor.models.llama
import vllm.v1.engine.core
import vllm.v1.executor.uniproc_executor
import vllm.v1.worker.cpu_worker  # noqa: F401

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """An engine whose replica was killed would stay for ever, with all its memory; vLLM does not look."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


os.register_at_fork(after_in_child=_end_with_parent)
