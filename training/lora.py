"""Low-rank adapters through PEFT: attached, saved, loaded, merged into the base, and the merge checked."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from core import checkpoint
from core.config import Config
from core.errors import RaymillError, UserError
from training import export
from training.model import bare, require_finite

ADAPTER = "adapter"
_BASE = "base.json"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MERGE_TOLERANCE = 1e-5
"""Largest difference of logits between adapter and merged FP32 weights, in units of the largest logit; PEFT's own
merge was measured at 3e-7."""


class LoraSettings(Config):
    """LoRA (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(16, gt=0, description="rank r of the update B A; 16 to 64 are usual")
    alpha: int = Field(32, gt=0, description="scale: the update is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="layers that get an adapter: all-linear (all but the output head) or their names"
    )
    dora: bool = Field(False, description="learn the length of each row of weights apart (DoRA, arXiv:2402.09353)")
    base: Literal["full", "nf4"] = Field(
        "full", description="the frozen weights: as they are, or in 4-bit NormalFloat (QLoRA, arXiv:2305.14314)"
    )


def load_nf4(path: str, compute: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The checkpoint with its linear layers, but the output head, in 4-bit NormalFloat with quantized constants.

    compute: the type of the products; everything that is no linear layer stays FP32. bitsandbytes does it on CPUs too.
    """
    require_finite(path)  # in 4 bits, nothing tells any more
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    model = checkpoint.load_model(path, quantization_config=settings, device_map={"": str(device)})
    for module in model.modules():
        # On CPUs with BF16 units bitsandbytes 0.50 repacks the weights at the first evaluation, for a product that
        # passes no gradient on: after a held-out loss, all but the last layers would have stopped learning.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # no attribute that a type checker knows
    return model


def attach(model: PreTrainedModel, settings: LoraSettings, seed: int) -> PeftModel:
    """Wrap `model` with a fresh adapter; B is zero, so the outputs are the base's. Only the adapter is trainable.

    Raises UserError when no layer has one of the names in `targets`.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        use_dora=settings.dora,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _wrapped(model, config, "lora.targets")


def _wrapped(model: PreTrainedModel, config: PeftConfig, where: str) -> PeftModel:
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:  # PEFT found no layer of these names, or one that it cannot adapt
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from None
    assert isinstance(wrapped, PeftModel)
    return wrapped


def save(model: PeftModel, directory: Path, base: str) -> Path:
    """Write `adapter/`, naming the base checkpoint it belongs to, and by which weights to know it."""
    folder = directory / ADAPTER
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    known = {"checkpoint": base, "fingerprint": checkpoint.fingerprint(base)}
    (folder / _BASE).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return folder


# --- back on a base -----------------------------------------------------------------------------------------------


def base_of(adapter: Path) -> str:
    """The checkpoint that the adapter names as its base. Raises UserError when `adapter` is no PEFT directory."""
    return str(_read(adapter).base_model_name_or_path or "")


def _read(adapter: Path) -> LoraConfig:
    for name in (_CONFIG, _WEIGHTS):
        if not (adapter / name).is_file():
            raise UserError(f"{adapter}: not a PEFT adapter, {name} is missing")
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{adapter / _CONFIG}: not readable: {str(error).splitlines()[0]}") from None
    if not isinstance(config, LoraConfig):
        raise UserError(f"{adapter}: holds a {config.peft_type} adapter; only LoRA and DoRA can be merged")
    return config


def load(model: PreTrainedModel, adapter: Path, base: str) -> PeftModel:
    """The saved adapter on `model`, which was loaded from `base`; nothing of it is trainable.

    Raises UserError when the adapter was trained on other weights, as far as it tells, or does not fit these.
    """
    config = _read(adapter)
    _check_base(adapter, base)
    config.base_model_name_or_path = None  # PEFT warns that it has moved; what it is, was checked
    wrapped = _wrapped(model, config, str(adapter))
    try:
        saved = load_file(adapter / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{adapter / _WEIGHTS}: not readable: {error}") from None
    expected = get_peft_model_state_dict(wrapped)
    for name in sorted({*saved, *expected}):
        theirs, ours = (tuple(part[name].shape) if name in part else None for part in (saved, expected))
        if theirs != ours:
            raise UserError(
                f"{adapter}: belongs to another base than {base}: {name} is {theirs or 'absent'} in the adapter, "
                f"{ours or 'absent'} on this base"
            )
    set_peft_model_state_dict(wrapped, saved)
    return wrapped.eval()


def _check_base(adapter: Path, base: str) -> None:
    """By the fingerprint that we wrote, else by that of the named base where it is still there; else shapes decide."""
    note = adapter / _BASE
    named = base_of(adapter)
    if note.is_file():
        content = json.loads(note.read_text(encoding="utf-8"))
        expected, named = content["fingerprint"], content["checkpoint"]
    elif named and Path(named).is_dir():
        expected = checkpoint.fingerprint(named)
    else:
        return
    if checkpoint.fingerprint(base) != expected:
        raise UserError(f"{adapter}: was trained on {named}, whose weights are not those of {base}; name that base")


# --- merging ------------------------------------------------------------------------------------------------------


def merge(model: PeftModel) -> PreTrainedModel:
    """The base with the adapter added to its weights: W + (alpha / r) B A, in the base's FP32; uses up `model`.

    DoRA: m (W + (alpha / r) B A) / |W + (alpha / r) B A|, row by row. A tied embedding or head that has an adapter of
    its own is untied first. Raises RaymillError when the merged model's logits are not those of base and adapter.
    """
    base = bare(model)
    assert not getattr(base, "is_loaded_in_4bit", False), "merged into 4 bits, an adapter is rounded away"
    model.eval()
    _untie(base)
    with_adapter = export.probe_logits(base)
    merged = model.merge_and_unload()
    difference = float((export.probe_logits(merged) - with_adapter).abs().max())
    scale = float(with_adapter.abs().max())
    if not difference <= _MERGE_TOLERANCE * max(1.0, scale):
        raise RaymillError(f"merging changed the logits by {difference:.2e} (largest logit {scale:.2e}); not written")
    tied = merged.config.tie_word_embeddings
    shared = merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    if tied and not shared:
        raise RaymillError("merging untied the output head from the embedding, though the configuration ties them")
    return merged


def _untie(base: Any) -> None:
    """Give the head weights of its own where embedding and head are one matrix and only one of them was adapted.

    Otherwise an update of the embedding would change the head as well (transformers#45127).
    """
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    adapted = [isinstance(end, BaseTunerLayer | ModulesToSaveWrapper) for end in ends]
    if not base.config.tie_word_embeddings or not any(adapted):
        return
    head = ends[1]
    if isinstance(head, ModulesToSaveWrapper):
        head = head.original_module
    elif isinstance(head, BaseTunerLayer):
        head = head.get_base_layer()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False
    base.all_tied_weights_keys = {}
