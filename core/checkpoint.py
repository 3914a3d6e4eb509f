"""Hugging Face checkpoints on disk: opened offline, refused with one line when they are not one."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from core import storage
from core.errors import UserError

# A stage shows its own progress; a bar for the shards of each checkpoint it opens would only interrupt it.
disable_progress_bar()


def check(path: str | Path) -> dict[str, Any]:
    """The checkpoint's `config.json`. Raises UserError when `path` is no checkpoint directory."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint directory")
    config = path / "config.json"
    if not config.is_file():
        adapter = (
            " (it is a PEFT adapter: merge it into its base first)" if (path / "adapter_config.json").is_file() else ""
        )
        raise UserError(f"{path}: not a checkpoint, config.json is missing{adapter}")
    if not any(path.glob("*.safetensors")):
        raise UserError(f"{path}: not a checkpoint, it holds no *.safetensors")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{config}: not readable as JSON: {error}") from None
    if not isinstance(content, dict) or "model_type" not in content:
        raise UserError(f"{config}: names no model_type, so nothing knows how to build the model")
    return content


def load_model(
    path: str | Path, dtype: torch.dtype = torch.float32, config: Any = None, **options: Any
) -> PreTrainedModel:
    """A causal language model in evaluation mode; `config` in place of the checkpoint's own, for a longer context.

    options: those of `from_pretrained`, as a quantization to load it in.

    Raises UserError when the directory is no usable checkpoint, or holds weights that are not finite.
    """
    check(path)
    more = options if config is None else {"config": config, **options}
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True, **more)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: the checkpoint does not load: {str(error).splitlines()[0]}") from None
    broken = next((name for name, weight in model.named_parameters() if not _finite(weight)), None)
    if broken is not None:
        raise UserError(f"{path}: {broken} holds weights that are not finite; the run that wrote it had diverged")
    model.eval()
    return model


def _finite(weight: torch.Tensor) -> bool:
    """Whether no number is infinite or NaN; types of fewer than 16 bits are not asked."""
    return weight.element_size() < 2 or not weight.is_floating_point() or bool(weight.isfinite().all())


def fingerprint(path: str | Path) -> str:
    """Tells weights apart without reading them all: a digest of each tensor's name, type, shape and first row.

    Raises UserError when the directory is no usable checkpoint.
    """
    check(path)
    parts: list[tuple[str, bytes]] = []
    try:
        for file in sorted(Path(path).glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # no mapping
                    part = tensors.get_slice(name)
                    first = part[:1] if part.get_shape() else part[...].reshape(1)
                    row = first.contiguous().view(torch.uint8).numpy().tobytes()
                    parts.append((name, f"{name} {part.get_dtype()} {part.get_shape()}".encode() + row))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the checkpoint does not load: {str(error).splitlines()[0]}") from None
    return storage.digest_bytes(content for _, content in sorted(parts))


def load_config(path: str | Path) -> Any:
    """The model's configuration alone. Raises UserError when the directory is no checkpoint, or of an unknown kind."""
    check(path)
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: its config.json does not load: {str(error).splitlines()[0]}") from None


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint or of a token artifact's `tokenizer/`. Raises UserError when there is none."""
    path = Path(path)
    if not (path / "tokenizer.json").is_file() and not (path / "tokenizer_config.json").is_file():
        raise UserError(f"{path}: holds no tokenizer (tokenizer.json is missing)")
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: the tokenizer does not load: {str(error).splitlines()[0]}") from None
