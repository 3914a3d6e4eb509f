"""Models: from configuration alone, and the parts of any causal language model that the objectives need."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from core.config import Config
from core.errors import UserError
from training import attention
from training.batch import Batch
from training.linear_cross_entropy import IGNORED, loss_sum, token_losses
from training.precision import Precision
from training.presets import PRESETS, Preset

_VOCABULARY_MULTIPLE = 64
SHARDED_LOSSES = "sharded_losses"
"""Method of a sharded model that gathers its weights around `losses_of` (sharding.py)."""
COMPILED_LOSS = "compiled_loss"
"""Attribute of a model whose loss is compiled as its layers are (layers.py)."""


class ModelConfig(Config):
    """Shape of a model trained from scratch; the default has 4.2 M parameters with a vocabulary of 4,096."""

    preset: Preset | None = Field(
        None, description="a shape by its size (docs/training.md lists them); settings beside it replace parts of it"
    )
    architecture: Literal["llama", "qwen3"] = Field("llama", description="qwen3: RMSNorm on queries and keys")
    hidden_size: int = Field(256, gt=0, description="width of the residual stream")
    layers: int = Field(4, gt=0, description="transformer blocks")
    heads: int = Field(4, gt=0, description="query heads")
    kv_heads: int | None = Field(None, gt=0, description="key and value heads; as many as query heads when left out")
    head_size: int | None = Field(None, gt=0, description="width of a head; hidden_size / heads when left out")
    intermediate_size: int = Field(688, gt=0, description="width inside the SwiGLU block")
    tie_embeddings: bool = Field(True, description="the output head is the embedding")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary positions")
    max_length: int = Field(1024, gt=0, description="longest context the model is declared for")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on attention weights")
    initializer_range: float = Field(0.02, gt=0, description="standard deviation of the initial weights")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        known = PRESETS.get(given.get("preset") or "") if isinstance(given, dict) else None
        return {**known, **given} if known else given

    @model_validator(mode="after")
    def _divides(self) -> "ModelConfig":
        if self.head_size is None and self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of heads {self.heads}; set head_size")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}")
        return self

    def to_transformers(self, vocabulary: int, **special: Any) -> PreTrainedConfig:
        """The `transformers` configuration; the vocabulary is rounded up to a multiple of 64."""
        kind = {"llama": LlamaConfig, "qwen3": Qwen3Config}[self.architecture]
        return kind(
            vocab_size=-(-vocabulary // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads or self.heads,
            head_dim=self.head_size or self.hidden_size // self.heads,
            intermediate_size=self.intermediate_size,
            tie_word_embeddings=self.tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            max_position_embeddings=self.max_length,
            attention_dropout=self.attention_dropout,
            initializer_range=self.initializer_range,
            **special,
        )

    def require(self, found: PreTrainedConfig, where: str) -> None:
        """Raise UserError unless the checkpoint at `where` has every setting that was given here."""
        wanted = self.to_transformers(found.vocab_size)
        given = self.model_fields_set - {"preset", "max_length", "attention_dropout", "initializer_range"}
        for setting in (name for name in type(self).model_fields if name in given):
            name = {
                "architecture": "model_type",
                "layers": "num_hidden_layers",
                "heads": "num_attention_heads",
                "kv_heads": "num_key_value_heads",
                "head_size": "head_dim",
                "tie_embeddings": "tie_word_embeddings",
                "rope_theta": "rope_parameters",
            }.get(setting, setting)
            has, wants = getattr(found, name, None), getattr(wanted, name)
            if setting == "rope_theta":
                has, wants = (has or {}).get("rope_theta"), self.rope_theta
            if has != wants:
                raise UserError(
                    f"{where}: its {name.replace('rope_parameters', 'rope_theta')} is {has}, model.{setting} asks for "
                    f"{wants}; leave the setting out, or name another checkpoint"
                )


def initialize(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A model with fresh FP32 weights, the same for the same seed on any machine with this version of torch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    return model


def require_finite(path: str | Path) -> None:
    """Raise UserError when a checkpoint holds weights that are not finite, where `checkpoint.load_model` cannot tell.

    Types of fewer than 16 bits are not asked.
    """
    try:
        for file in sorted(Path(path).glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # no mapping
                    weight = tensors.get_tensor(name)
                    if weight.is_floating_point() and weight.element_size() > 1 and not weight.isfinite().all():
                        raise UserError(
                            f"{path}: {name} holds weights that are not finite; the run that wrote it had diverged"
                        )
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the checkpoint does not load: {str(error).splitlines()[0]}") from None


def bare(model: Any) -> Any:
    """The `transformers` model inside PEFT's wrapper; adapters live in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def losses(model: nn.Module, batch: Batch, precision: Precision, per_token: bool) -> Tensor:
    """-log p(label) of the batch: one sum, or per token, (rows * length,), zero where there is no label.

    Segments are isolated. Where the output head is a plain matrix, the logits never exist at once; models that change
    their logits (Gemma 2, Cohere, Granite) go the plain way.
    """
    base = bare(model)
    sharded: Any = getattr(base, SHARDED_LOSSES, None)
    return sharded(batch, precision, per_token) if sharded else losses_of(base, batch, precision, per_token)


def losses_of(base: Any, batch: Batch, precision: Precision, per_token: bool) -> Tensor:
    """The same for the `transformers` model itself, all of whose weights are here."""
    labels_N = batch.labels.flatten()
    inputs = attention.inputs(base, batch)
    head = _plain_head(base)
    with precision.context():
        if head is None:
            logits_NV = base(**inputs, use_cache=False).logits.flatten(0, 1)
            return cross_entropy(logits_NV.float(), labels_N, reduction="none" if per_token else "sum")
        hidden_ND = base.get_decoder()(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)
    how: dict[str, Any] = {"products": precision.name, "compiled": getattr(base, COMPILED_LOSS, False)}
    if batch.labelled == len(labels_N):
        return (token_losses if per_token else loss_sum)(hidden_ND, head, labels_N, **how)
    # The head is spared the tokens without a label: prompts, padding.
    places_K = (labels_N != IGNORED).nonzero()[:, 0]
    hidden_KD, labels_K = hidden_ND[places_K], labels_N[places_K]
    if not per_token:
        return loss_sum(hidden_KD, head, labels_K, **how)
    losses_K = token_losses(hidden_KD, head, labels_K, **how)
    return losses_K.new_zeros(len(labels_N)).index_copy(0, places_K, losses_K)


def _plain_head(base: PreTrainedModel) -> Tensor | None:
    """The output head's weight, (vocabulary, width), unless there is more to it than one product."""
    head = base.get_output_embeddings()
    capped = getattr(base.config, "final_logit_softcapping", None)
    scales = [getattr(base.config, name, None) for name in ("logit_scale", "logits_scaling")]
    if type(head) is not nn.Linear or head.bias is not None or capped or any(s not in (None, 1, 1.0) for s in scales):
        return None
    return head.weight


def parameters_of(config: PreTrainedConfig) -> int:
    """Parameters of a model of this configuration, tied ones once, without making it."""
    with torch.device("meta"):
        return count_parameters(AutoModelForCausalLM.from_config(config))[0]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(all, trainable); tied ones count once."""
    parameters = list(model.parameters())
    return sum(_numbers_in(p) for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _numbers_in(parameter: nn.Parameter) -> int:
    """Of a matrix in 4 bits, two numbers share a byte."""
    quantized: Any = getattr(parameter, "quant_state", None)
    return math.prod(quantized.shape) if quantized is not None else parameter.numel()


def flops_per_token(model: nn.Module, length: int) -> float:
    """Floating-point operations of forward and backward per token, attention counted non-causally.

    6 N + 12 L H d T with N the parameters in matrix products: the input embedding is a look-up and counts only when
    it is the head as well. With adapters the base needs no weight gradients: 4 N + 2 N_adapter.
    """
    base = bare(model)
    config = base.config
    everything, trainable = count_parameters(model)
    embedding = base.get_input_embeddings().weight.numel()
    products = everything - (0 if config.tie_word_embeddings else embedding)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * head * length
    backward = 2 * products if trainable == everything else trainable
    return 4.0 * products + backward + attention
