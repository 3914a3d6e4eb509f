"""The process of an engine: forked from one that imports vLLM while the replica does so too.

vLLM spawns its engine in a fresh process when the replica has done its own imports. Of a cold start of 96 s on two busy
cores the replica's imports were 49 and the engine's 45, one after the other.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection, forkserver
from typing import Any

_IMPORTS = "serving.engine_imports"


def prepare(on_gpu: bool) -> None:
    """Start the process that engines are forked from; called before the replica imports vLLM.

    For a GPU it imports nothing before: what it imports, and how it changes vLLM's embedding tables, is for CPUs.
    """
    forkserver.set_forkserver_preload([] if on_gpu else [_IMPORTS])
    forkserver.ensure_running()


def use() -> None:
    """Let vLLM fork its engine from there. On a CPU it would otherwise always spawn."""
    import vllm.v1.engine.utils as engines

    setattr(engines, "get_mp_context", _Forked)  # noqa: B010 (mypy: it is not exported)


class _Forked:
    """The part of a multiprocessing context that vLLM uses."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")

    def Process(self, target: Callable[..., None], name: str, kwargs: dict[str, Any]) -> Any:  # noqa: N802
        """A process that will run `target`, in the environment of this moment: a platform sets variables late."""
        return self._context.Process(target=_run, name=name, args=(dict(os.environ), target), kwargs=kwargs)

    def Queue(self) -> Any:  # noqa: N802
        """As multiprocessing has it."""
        return self._context.Queue()


def _run(environment: dict[str, str], target: Callable[..., None], **kwargs: Any) -> None:
    os.environ.update(environment)
    threading.Thread(target=_end_with_replica, daemon=True).start()
    target(**kwargs)


def _end_with_replica() -> None:
    """An engine whose replica was killed would stay for ever, with all its memory: vLLM does not look."""
    replica = multiprocessing.parent_process()
    assert replica is not None
    connection.wait([replica.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
