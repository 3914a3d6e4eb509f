"""llm-compressor, kept quiet: one-shot quantization of a model in memory, written as a compressed checkpoint."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core import checkpoint
from serving.schemes import SCHEMES, Variant, group_size

_IGNORED = ["lm_head"]
_CALIBRATION_BATCH = 8
_NARROW_BITS = 7
_SMOOTHING = 0.5  # SmoothQuant's alpha (Xiao et al. 2022, section 4.2)
# A Hugging Face directory's files beside weights and configuration.
_COMPANIONS = (
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
)


def quantizable(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """The linear layers that are quantized: (outputs, inputs) by name."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {
        name: (module.out_features, module.in_features)
        for name, module in linear.items()
        if name.rpartition(".")[2] not in _IGNORED
    }


def quantize(
    model: PreTrainedModel,
    variant: Variant,
    calibration_ST: Tensor,
    narrow: bool,
    kv_cache: str,
    on_layer: Callable[[], None],
) -> tuple[int | None, list[str]]:
    """Quantize in place, one decoder layer after the other; returns (group size, layers that stay as they are), None
    for a scheme without groups: see `schemes.group_size`.

    calibration_ST: token ids, (samples, length) int64. kv_cache: `fp8` adds calibrated scales for keys and values.
    `on_layer` is called for every linear layer done. Raises UserError when layer widths do not go with the scheme.

    Methods: GPTQ (Frantar et al. 2022, arXiv:2210.17323); SmoothQuant (Xiao et al. 2022, arXiv:2211.10438) before GPTQ;
    AWQ (Lin et al. 2023, arXiv:2306.00978); RTN, each weight to the nearest number.

    narrow: INT8 weights in [-64, 64]. A CPU without VNNI multiplies 8-bit numbers with vpmaddubsw, which adds two
    products in 16 bits and saturates: 2 * 255 * 64 fits, 2 * 255 * 127 does not. oneDNN lets it, and a layer's output
    is then off by 1 to 7 % (measured on AVX2), as much as quantization itself costs or more.
    """
    done = 0
    layers = quantizable(model)
    size, kept = group_size(variant.scheme, layers)
    narrow = narrow and variant.scheme == "int8_w8a8"

    def count() -> None:
        nonlocal done
        done += 1
        on_layer()

    with quiet(count):
        from datasets import Dataset
        from llmcompressor import oneshot, reset_session

        reset_session()
        oneshot(
            model=model,
            dataset=Dataset.from_dict({"input_ids": calibration_ST.tolist()}),
            recipe=_recipe(model, variant, size, kept, narrow, kv_cache),
            max_seq_length=calibration_ST.shape[1],
            num_calibration_samples=len(calibration_ST),
            shuffle_calibration_samples=False,
            batch_size=_CALIBRATION_BATCH,
        )
        reset_session()
    for module in model.modules():
        # Stored and served as the 8-bit format that engines know; the values lie on the narrow grid already.
        attached = getattr(getattr(module, "quantization_scheme", None), "weights", None)  # attention has none
        if narrow and attached is not None:
            attached.num_bits = 8
    for _ in range(len(layers) - done):  # only GPTQ tells about each layer
        on_layer()
    return size, kept


def _recipe(
    model: PreTrainedModel, variant: Variant, size: int | None, kept: list[str], narrow: bool, kv_cache: str
) -> list[Any]:
    """llm-compressor's modifiers, in order."""
    from compressed_tensors.quantization import QuantizationArgs, preset_name_to_scheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    layers = preset_name_to_scheme(SCHEMES[variant.scheme].preset, ["Linear"])
    if narrow:
        layers.weights.num_bits = _NARROW_BITS
    if size is not None:
        layers.weights.group_size = size
    last = GPTQModifier if variant.method in ("gptq", "smoothquant") else QuantizationModifier
    keys_and_values = QuantizationArgs(num_bits=8, type="float", strategy="tensor", symmetric=True, dynamic=False)
    rounding = last(
        config_groups={"group_0": layers},
        ignore=[*_IGNORED, *kept],
        kv_cache_scheme=keys_and_values if kv_cache == "fp8" else None,
    )
    if variant.method == "awq":
        return [AWQModifier(mappings=_balanced(model, kept)), rounding]
    return (
        [SmoothQuantModifier(smoothing_strength=_SMOOTHING), rounding]
        if variant.method == "smoothquant"
        else [rounding]
    )


def _balanced(model: PreTrainedModel, kept: list[str]) -> list[Any] | None:
    """AWQ's pairs of layers for this model, None for its own choice; it divides by 0 where none of those after a
    smoothed one is quantized (llm-compressor 0.12)."""
    from compressed_tensors.utils import match_name
    from llmcompressor.modifiers.transform.awq.dynamic_mappings import get_layer_mappings_from_model

    if not kept:
        return None
    rounded = [name for name in quantizable(model) if name not in kept]
    return [
        mapping
        for mapping in get_layer_mappings_from_model(model)
        if any(match_name(name, pattern) for name in rounded for pattern in mapping.balance_layers)
    ]


def save(model: PreTrainedModel, dtype: torch.dtype, original: str | Path, directory: Path) -> None:
    """Write the compressed checkpoint; what is not quantized goes back to the original's `dtype`.

    Tokenizer, chat template and generation settings are copied from the original byte for byte.
    """
    shutil.rmtree(directory, ignore_errors=True)
    for module in model.modules():
        if getattr(getattr(module, "quantization_scheme", None), "weights", None) is None:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    with quiet():
        model.save_pretrained(directory, save_compressed=True)
    (directory / "recipe.yaml").unlink(missing_ok=True)  # llm-compressor's own; the manifest says it all
    for pattern in _COMPANIONS:
        for file in Path(original).glob(pattern):
            shutil.copyfile(file, directory / file.name)
    for file in directory.iterdir():
        file.chmod(0o644)


def load(directory: str | Path) -> PreTrainedModel:
    """What `save` wrote, as it computes: weights decompressed to float32, activations rounded where the scheme does.

    Raises UserError when it does not load; what torch cannot do on this machine is torch's RuntimeError.
    """
    with quiet():
        model = checkpoint.load_model(directory)
        quantizer: Any = model.hf_quantizer
        quantizer.compressor.decompress_model(model)
        for parameter in model.parameters():
            if parameter.is_floating_point():  # NVFP4 comes out in bfloat16, whatever the rest is in
                parameter.data = parameter.data.float()
    return model


@contextlib.contextmanager
def quiet(on_layer: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Nothing of llm-compressor's bars and logs reaches the console; its log tells when a layer is done.

    Standard error is left alone, because our own progress is shown there. Nothing is compiled: compressed-tensors would
    have the rounding to FP4 compiled, for which not every machine has a compiler.
    """
    # Its log is set up, and written to, while it is imported.
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    import llmcompressor  # noqa: F401
    from loguru import logger
    from tqdm import tqdm

    def follow(message: Any) -> None:
        if message.startswith("Quantizing "):
            on_layer()

    tracing = logging.getLogger("torch.fx._symbolic_trace")
    level, with_bar = tracing.level, tqdm.__init__
    logger.remove()
    logger.add(follow, format="{message}", level="INFO")
    tracing.setLevel(logging.ERROR)
    tqdm.__init__ = lambda *rest, **options: with_bar(*rest, **options | {"disable": True})  # type: ignore[method-assign]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        tqdm.__init__ = with_bar  # type: ignore[method-assign]
        tracing.setLevel(level)
        logger.remove()
