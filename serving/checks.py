"""Whether a model can be served as its settings ask, before an engine is started: one line for each mistake."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from core import checkpoint as checkpoints
from core import storage
from core.errors import UserError
from serving import device, fetch, preflight
from serving.catalogue import Listing
from serving.endpoint import Endpoint, ServedModel
from serving.engine import Adapter, EngineSettings, ModelConfig
from serving.hardware import Hardware

log = logging.getLogger("raymill.serve.checks")


def served(model: ModelConfig, hardware: Hardware | None = None) -> ServedModel:
    """The model as it will be served, its paths absolute; URLs stay.

    Raises UserError when checkpoint, draft, adapters, context or cache cannot work together, or not here.
    """
    if model.checkpoint is None:
        raise UserError(f"{model.model_id}: checkpoint is missing; it says which model is served")
    hardware = hardware or device.of_engines(model.device)
    model = _absolute(model.model_copy(update={"device": "cpu" if hardware.gpu is None else "gpu"}))
    assert model.checkpoint is not None
    path = fetch.local(model.checkpoint)
    content = checkpoints.check(path)
    if (warning := preflight.other_vllm()) is not None:
        log.warning("%s", warning)
    quantization = preflight.require(path, content, hardware)
    longest = check_context(model, content)
    _check_features(model, content, hardware)
    if model.speculative.checkpoint is not None:
        check_draft(path, content, fetch.local(model.speculative.checkpoint), model.speculative.method)
    for adapter in model.adapters:
        check_adapter(adapter, path, quantization, model.max_adapter_rank)
    files = [fetch.identity(url) for url in (model.checkpoint, model.speculative.checkpoint) if url is not None]
    started_with = [model.model_id, model.checkpoint, str(model.seed), model.engine.model_dump_json()]
    return ServedModel(
        config=model,
        quantization=quantization,
        max_model_len=longest,
        version=storage.digest_bytes(["\0".join([*started_with, *files]).encode()]),
        adapters={adapter.name: (adapter.path, fetch.identity(adapter.path)) for adapter in model.adapters},
    )


def check_names(endpoint: Endpoint) -> None:
    """Raises UserError when a name of models, adapters and aliases means two things, or an alias nothing."""
    names = [model.config.model_id for model in endpoint.models]
    if len(set(names)) < len(names):
        raise UserError(f"models: two have the model_id {next(name for name in names if names.count(name) > 1)}")
    try:
        Listing.model_validate(endpoint.listing())
    except ValidationError as error:
        raise UserError(f"models: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _absolute(model: ModelConfig) -> ModelConfig:
    draft = model.speculative.checkpoint
    changed = {
        "checkpoint": absolute(model.checkpoint or ""),
        "speculative": model.speculative.model_copy(update={"checkpoint": absolute(draft) if draft else None}),
        "adapters": [adapter.model_copy(update={"path": absolute(adapter.path)}) for adapter in model.adapters],
    }
    return model.model_copy(update=changed)


def absolute(path: str) -> str:
    """A path that holds in another process; a URL stays."""
    return path if storage.is_remote(path) else os.path.abspath(path.removeprefix("file://"))


def check_context(settings: EngineSettings, content: Mapping[str, Any]) -> int | None:
    """Tokens of prompt and answer together, None where the checkpoint names no number."""
    own = content.get("max_position_embeddings")
    stretch = settings.rope_scaling
    if stretch is not None:
        scaled = (content.get("rope_parameters") or content.get("rope_scaling") or {}).get("rope_type", "default")
        if own is None or scaled != "default":
            raise UserError(
                "rope_scaling: the checkpoint has no plain rotary positions of a stated length "
                f"({scaled}); leave rope_scaling out"
            )
    longest = None if own is None else int(int(own) * (stretch.factor if stretch else 1))
    asked = settings.max_model_len
    if asked is not None and longest is not None and asked > longest:
        more = "" if stretch else "; rope_scaling makes it longer"
        raise UserError(f"max_model_len: {asked} is more than the model's context of {longest}{more}")
    return asked if asked is not None else longest


def _check_features(model: ModelConfig, content: Mapping[str, Any], hardware: Hardware) -> None:
    """What vLLM has on this hardware for this checkpoint."""
    wanted: dict[preflight.Feature, bool] = {
        "kv_cache_fp8": model.kv_cache_dtype == "fp8",
        "kv_offload": model.kv_offload_gib is not None,
        "lora": bool(model.engine.adapter_slots),
        "speculation_draft": model.speculative.method == "draft_model",
        "speculation_eagle3": model.speculative.method == "eagle3",
    }
    for feature, asked in wanted.items():
        if asked:
            preflight.require_feature(feature, content, hardware)
    if hardware.gpu is None and model.tensor_parallel_size > 1:
        raise UserError(f"tensor_parallel_size: engines run on {hardware.name} here; only GPUs share an engine")
    if model.task == "embed" and model.speculative.method != "none":
        raise UserError(f"{model.model_id}: an embedding model writes no tokens; leave speculative out")


def check_draft(target: str, content: Mapping[str, Any], draft: str, method: str) -> None:
    """A draft must speak the target's tokens; a head must fit its states."""
    own = checkpoints.check(draft)
    own = {**own, **own.get("transformer_layer_config", {})}  # heads of the speculators library nest it
    ours, theirs = content.get("vocab_size"), own.get("vocab_size")
    if ours != theirs:
        raise UserError(
            f"speculative.checkpoint: {draft} has a vocabulary of {theirs} tokens and {target} one of {ours}; "
            "a draft must share its target's tokenizer"
        )
    if method == "eagle3":
        widths = content.get("hidden_size"), own.get("target_hidden_size") or own.get("hidden_size")
        if widths[0] != widths[1]:
            raise UserError(f"speculative.checkpoint: {draft} reads states of {widths[1]} and {target} has {widths[0]}")
        if not any("eagle3" in name.lower() for name in own.get("architectures") or []):
            raise UserError(f"speculative.checkpoint: {draft} is no EAGLE-3 head: its architectures do not say Eagle3")
        return
    first, second = _vocabulary(target), _vocabulary(draft)
    if first and second and first != second:
        token = next(token for token in sorted(first.keys() | second.keys()) if first.get(token) != second.get(token))
        raise UserError(
            f"speculative.checkpoint: {draft} numbers its tokens otherwise than {target}: {token!r} is "
            f"{second.get(token)} there and {first.get(token)} here; a draft must share its target's tokenizer"
        )


def _vocabulary(folder: str) -> dict[str, int]:
    """Token numbers by text, empty where the tokenizer is of another kind."""
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        return {}
    written = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = written.get("model", {}).get("vocab")
    added = {token["content"]: token["id"] for token in written.get("added_tokens") or []}
    return {**vocabulary, **added} if isinstance(vocabulary, dict) else {}


# --- adapters -----------------------------------------------------------------------------------------------------


def check_adapter(adapter: Adapter, base: str, quantization: str, max_rank: int) -> None:
    """An adapter that vLLM can add to this base."""
    where = f"adapters: {adapter.name}"
    folder = Path(fetch.local(adapter.path))
    settings, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (settings, weights):
        if not file.is_file():
            raise UserError(f"{where}: {adapter.path} is no PEFT adapter, {file.name} is missing")
    content = json.loads(settings.read_text(encoding="utf-8"))
    if content.get("peft_type") != "LORA":
        raise UserError(f"{where}: {adapter.path} holds a {content.get('peft_type')} adapter; only LoRA can be served")
    if content.get("use_dora") or content.get("modules_to_save") or content.get("bias", "none") != "none":
        raise UserError(
            f"{where}: {adapter.path} changes more than LoRA matrices (DoRA, biases or whole modules), which vLLM "
            "cannot add at run time; merge it with 'raymill train merge' and serve the result as a model"
        )
    ranks = [content["r"], *(content.get("rank_pattern") or {}).values()]
    if max(ranks) > max_rank:
        raise UserError(f"{where}: its rank {max(ranks)} is above max_adapter_rank {max_rank}; raise that")
    _check_base(where, folder, base, quantization)
    _check_shapes(where, weights, base)


def _check_base(where: str, folder: Path, base: str, quantization: str) -> None:
    """By the fingerprint that training wrote; quantized weights have another, so of those the shapes decide."""
    note = folder / "base.json"
    if not note.is_file() or quantization != "none":
        return
    known = json.loads(note.read_text(encoding="utf-8"))
    if checkpoints.fingerprint(base) != known["fingerprint"]:
        raise UserError(f"{where}: was trained on {known['checkpoint']}, whose weights are not those of {base}")


def _check_shapes(where: str, weights: Path, base: str) -> None:
    shapes = {name: shape for file in sorted(Path(base).glob("*.safetensors")) for name, shape in _shapes(file).items()}
    found = _shapes(weights)
    for name, shape in found.items():
        module, part, _ = name.rpartition(".lora_A")
        if not part:
            continue
        wide = shapes.get(f"{module.removeprefix('base_model.model.')}.weight")
        tall = found.get(name.replace(".lora_A", ".lora_B"))
        if wide is not None and tall is not None and (tall[0], shape[1]) != (wide[0], wide[1]):
            raise UserError(
                f"{where}: belongs to another base than {base}: {module.rpartition('base_model.model.')[2]} is "
                f"{tall[0]} x {shape[1]} there and {wide[0]} x {wide[1]} here"
            )


def _shapes(file: Path) -> dict[str, list[int]]:
    try:
        with safe_open(file, "pt") as tensors:
            return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not readable: {error}") from None
