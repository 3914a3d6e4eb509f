"""LoRA adapters of a running engine: loaded, replaced and dropped while it answers.

`ray.serve.llm` refuses paths on this machine (ray#53315), so the engine itself is asked.
"""

import asyncio
import hashlib
import itertools
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serving import fetch

log = logging.getLogger("ray.serve")
_MARK = "@"


class Listed(NamedTuple):
    """An adapter as the configuration has it; `identity` changes with its files."""

    path: str
    identity: str


class AdapterSet:
    """What `update` was told last, as far as the engine could load it."""

    def __init__(self, engine: Any, folder: Path) -> None:
        """engine: `ray.serve.llm`'s VLLMEngine, started with LoRA; folder: for private copies.

        vLLM reads an adapter again when it has dropped it for others, in the middle of a step, and its engine dies
        when the files are gone or changed: it gets copies that nobody else touches.
        """
        self._client, self._models = engine._engine_client, engine._oai_models
        self._folder = folder
        self._numbers = itertools.count(1)
        self._loaded: dict[str, Listed] = {}
        self._lock = asyncio.Lock()
        named = self._models.model_name

        def plain_name(request: Any = None) -> str:
            return str(named(request)).partition(_MARK)[0]

        self._models.model_name = plain_name

    @property
    def loaded(self) -> dict[str, str]:
        """Identity by name of what the engine serves."""
        return {name: listed.identity for name, listed in self._loaded.items()}

    async def update(self, wanted: Mapping[str, Listed]) -> None:
        """Serve these from now on. Requests under way keep the adapter that they began with.

        What does not load is logged and left out, never raised: Ray Serve would take the whole replica down.
        """
        async with self._lock:
            for name, listed in wanted.items():
                if self._loaded.get(name) != listed:
                    try:
                        await self._load(name, listed)
                    except Exception:
                        log.exception("the adapter %s does not load", name)
            for name in [name for name in self._loaded if name not in wanted]:
                old = self._models.lora_requests.pop(name)
                del self._loaded[name]
                await self._drop(old)

    async def _load(self, name: str, listed: Listed) -> None:
        from vllm.lora.request import LoRARequest

        copy = await asyncio.to_thread(self._copy, name, listed)
        # The prefix cache knows an adapter by its name alone: a new one under an old name needs another.
        request = LoRARequest(f"{name}{_MARK}{listed.identity[:8]}", next(self._numbers), str(copy))
        await self._client.add_lora(request)
        old = self._models.lora_requests.get(name)
        self._models.lora_requests[name] = request
        self._loaded[name] = listed
        if old is not None:
            await self._drop(old)

    def _copy(self, name: str, listed: Listed) -> Path:
        target = self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:8]}-{listed.identity}"
        if not target.is_dir():
            shutil.copytree(fetch.local(listed.path), target)
        return target

    async def _drop(self, request: Any) -> None:
        """Free its slot; requests under way load it again from its copy, which stays until the replica ends."""
        await self._client.remove_lora(request.lora_int_id)
