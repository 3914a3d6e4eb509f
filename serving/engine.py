"""How an engine is built: settings a user may choose, and what they mean to vLLM. Imports neither vLLM nor Ray."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from core.config import RUNTIME, Config, InputPath
from serving import preflight
from serving.hardware import Device, detect

_GIB = 1 << 30
_CPU_CACHE_GIB = 0.5
_DEFAULT_SLOTS = 4
WATCHER = "serving.drafting.DraftWatcher"


class Speculative(Config):
    """Draft tokens that the model checks several at a time; greedy answers stay the same."""

    method: Literal["none", "ngram", "draft_model", "eagle3"] = Field(
        "none",
        description="ngram drafts what followed the same tokens before; draft_model asks a smaller model of the same "
        "vocabulary; eagle3 a head that reads the model's own states (Li et al. 2025, arXiv:2503.01840)",
    )
    checkpoint: InputPath | None = Field(None, description="draft_model, eagle3: its checkpoint, a path or a URL")
    tokens: int = Field(4, ge=1, le=16, description="draft tokens checked in one step")
    prompt_lookup_max: int = Field(4, ge=1, description="ngram: longest n-gram looked up")
    prompt_lookup_min: int = Field(2, ge=1, description="ngram: shortest n-gram looked up")
    max_batch: int | None = Field(
        None, ge=1, description="draft only while no more requests than this are at work together; None: always"
    )
    adaptive: bool = Field(
        True, description="time steps with and without drafts, and draft only where that makes tokens cheaper"
    )

    @model_validator(mode="after")
    def _method_has_what_it_needs(self) -> Self:
        by_model = self.method in ("draft_model", "eagle3")
        if by_model and self.checkpoint is None:
            raise ValueError(f"speculative.method {self.method} needs speculative.checkpoint")
        if not by_model and self.checkpoint is not None:
            raise ValueError(f"speculative.checkpoint is of no use to the method {self.method}")
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError("speculative.prompt_lookup_min is greater than prompt_lookup_max")
        return self

    def arguments(self, max_num_seqs: int) -> dict[str, Any]:
        """vLLM's `speculative_config`."""
        chosen: dict[str, Any] = {"method": self.method, "num_speculative_tokens": self.tokens}
        if self.method == "ngram":
            chosen |= {"prompt_lookup_max": self.prompt_lookup_max, "prompt_lookup_min": self.prompt_lookup_min}
        else:
            chosen["model"] = self.checkpoint
        if self.max_batch is not None and self.max_batch < max_num_seqs:
            schedule = [(1, self.max_batch, self.tokens), (self.max_batch + 1, max_num_seqs, 0)]
            chosen["num_speculative_tokens_per_batch_size"] = schedule
        return chosen


class RopeStretch(Config):
    """Rotary positions stretched beyond the context that a checkpoint was trained for."""

    type: Literal["linear", "dynamic", "yarn"] = Field(
        description="linear: positions divided by the factor (arXiv:2306.15595); dynamic: the base grows with the "
        "length; yarn: by frequency (arXiv:2309.00071)"
    )
    factor: float = Field(gt=1, description="new context / the checkpoint's context")

    def parameters(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """`rope_parameters` for a model whose `config.json` this is; vLLM multiplies its context by the factor."""
        own = content.get("rope_parameters") or {}
        theta = own.get("rope_theta") or content.get("rope_theta") or 10_000.0
        scaled: dict[str, Any] = {"rope_theta": theta, "rope_type": self.type, "factor": self.factor}
        if self.type == "yarn":
            scaled["original_max_position_embeddings"] = int(content["max_position_embeddings"])
        return scaled


class EngineSettings(Config):
    """What one vLLM engine is started with."""

    device: Device = Field(
        "auto", description="what it runs on; auto: a GPU where the cluster has one and the installed vLLM uses it"
    )
    tensor_parallel_size: int = Field(
        1, ge=1, description="GPUs of one machine that share each engine; on a CPU there is nothing to share"
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of a GPU's memory for weights, activations, keys and values"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of activations and unquantized weights; auto: bfloat16 where the hardware has units for it, else "
        "float32 on a CPU and float16 on a GPU",
    )
    task: Literal["generate", "embed"] = Field("generate", description="what the model is for: text, or embeddings")
    max_model_len: int | None = Field(
        None, ge=8, description="longest prompt and answer together; None: the model's own"
    )
    rope_scaling: RopeStretch | None = Field(None, description="a longer context than the checkpoint's own")
    max_num_seqs: int = Field(8, ge=1, description="requests that the engine works on together")
    kv_cache_gib: float | None = Field(
        None,
        gt=0,
        description="memory for keys and values, GiB; None: 0.5 on a CPU, what gpu_memory_utilization leaves on a GPU",
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        "auto", description="of keys and values; auto: as the activations; fp8: half of bfloat16, AVX-512 on a CPU"
    )
    kv_offload_gib: float | None = Field(
        None, gt=0, description="host memory for keys and values that leave a GPU, GiB; None: they are forgotten"
    )
    prefix_caching: bool = Field(True, description="keep keys and values of prompts, for prompts that begin the same")
    compile: bool | None = Field(
        None,
        description="torch.compile the model: about 45 s more to start on 2 cores, then faster steps; None: on a GPU "
        "alone, with CUDA graphs",
    )
    speculative: Speculative = Field(default_factory=Speculative, description="speculative decoding")
    adapter_slots: int = Field(
        0, ge=0, description="LoRA adapters that one step may mix; 0: none, or 4 where adapters are listed"
    )
    max_adapter_rank: Literal[8, 16, 32, 64, 128, 256] = Field(16, description="highest rank of a LoRA adapter")
    tool_parser: str | None = Field(
        None, description="how the model writes tool calls, as vLLM's --tool-call-parser names it: hermes, llama3_json"
    )
    threads: Annotated[int | None, RUNTIME] = Field(None, ge=1, description="OpenMP threads; None: every core")

    @property
    def on_gpu(self) -> bool:
        """Whether the engine runs on a GPU; `checks.served` puts the answer in the place of `auto`."""
        if self.device != "auto":
            return self.device == "gpu"
        return detect().gpu is not None

    @property
    def gpus(self) -> int:
        """GPUs that one engine claims of Ray."""
        return self.tensor_parallel_size if self.on_gpu else 0

    @property
    def _compiles(self) -> bool:
        return self.on_gpu if self.compile is None else self.compile

    def arguments(self, seed: int, content: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of vLLM's engine for a checkpoint whose `config.json` is `content`."""
        dtype = resolve_dtype(self.dtype, self.device)
        if (self.dtype, dtype, preflight.number_format(content)) == ("auto", "float32", "int4_w4a16"):
            dtype = "bfloat16"  # cpu_gemm_wna16 has no product for float32: the first request would end the engine
        arguments: dict[str, Any] = {
            "dtype": dtype,
            "max_num_seqs": self.max_num_seqs,
            "kv_cache_dtype": self.kv_cache_dtype,
            "enable_prefix_caching": self.prefix_caching,
            "enforce_eager": not self._compiles,
            "seed": seed,
        }
        if self.on_gpu:
            arguments["tensor_parallel_size"] = self.tensor_parallel_size
            arguments["gpu_memory_utilization"] = self.gpu_memory_utilization
        cache = self.kv_cache_gib if self.kv_cache_gib is not None or self.on_gpu else _CPU_CACHE_GIB
        if cache is not None:
            arguments["kv_cache_memory_bytes"] = int(cache * _GIB)
        if self.max_model_len is not None:
            arguments["max_model_len"] = self.max_model_len
        if self.rope_scaling is not None:
            arguments["hf_overrides"] = {"rope_parameters": self.rope_scaling.parameters(content)}
        if self.kv_offload_gib is not None:
            arguments["kv_offloading_size"] = self.kv_offload_gib
        if self.task == "embed":
            arguments |= {"runner": "pooling", "convert": "embed"}
        if self.speculative.method != "none":
            arguments["speculative_config"] = self.speculative.arguments(self.max_num_seqs)
            arguments["worker_extension_cls"] = WATCHER
        if self.adapter_slots:
            arguments |= {
                "enable_lora": True,
                "max_loras": self.adapter_slots,
                "max_lora_rank": self.max_adapter_rank,
            }
        if self.tool_parser is not None:
            arguments |= {"enable_auto_tool_choice": True, "tool_call_parser": self.tool_parser}
        return arguments

    def environment(self) -> dict[str, str]:
        """Environment of the replica and of the engine process that it starts. Nothing may be looked up on the network.

        On a CPU thread binding is off: vLLM would reserve one core for its scheduler, half of a machine with two.
        """
        variables = {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PROMETHEUS_DISABLE_CREATED_SERIES": "true",
        }
        if self.threads is not None or not self.on_gpu:
            variables["OMP_NUM_THREADS"] = str(self.threads or os.cpu_count() or 1)
        if not self.on_gpu:
            variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if not self._compiles:
            # A few helpers of vLLM compile themselves all the same: the first request for log-probabilities then holds
            # every other request up for 25 s on 2 cores.
            variables["TORCHDYNAMO_DISABLE"] = "1"
        return variables


class Adapter(Config):
    """A LoRA adapter under a name of its own."""

    name: str = Field(pattern=r"^[A-Za-z0-9._:/-]{1,200}$", description="the name that clients ask for")
    path: InputPath = Field(description="PEFT adapter directory, a path or a URL")


class Replicas(Config):
    """How many engines answer for a model."""

    min: Annotated[int, RUNTIME] = Field(
        1, ge=0, description="always kept; 0: none while nobody asks, and the first request waits for a cold start"
    )
    max: Annotated[int, RUNTIME] = Field(1, ge=1, description="at most, when requests wait")
    idle_s: Annotated[float, RUNTIME] = Field(300.0, ge=1, description="seconds of less work before one is stopped")
    busy_s: Annotated[float, RUNTIME] = Field(10.0, ge=0, description="seconds of more work before one is started")
    drain_s: Annotated[float, RUNTIME] = Field(
        30.0, ge=0, description="how long requests under way may take to end when a replica is to stop"
    )
    cpus: Annotated[float, RUNTIME] = Field(
        0.2, gt=0, description="share of Ray's CPUs that each claims: how many Ray puts on one machine"
    )

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"replicas.min {self.min} is more than replicas.max {self.max}")
        return self

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to scale."""
        return self.min == self.max


class ModelConfig(EngineSettings):
    """A checkpoint under the name that clients ask for, its adapters, and the engines that serve it."""

    model_id: str = Field("raymill", pattern=r"^[A-Za-z0-9._-]+$", description="the name that clients ask for")
    checkpoint: InputPath | None = Field(
        None, description="Hugging Face checkpoint directory, quantized or not: a path, or a URL that fsspec reads"
    )
    aliases: list[str] = Field(default_factory=list, description="other names for the model")
    adapters: list[Adapter] = Field(default_factory=list, description="LoRA adapters served beside it, by name")
    replicas: Replicas = Field(default_factory=Replicas, description="engines of this model")
    seed: int = Field(0, description="of sampling without a seed in the request")

    @property
    def engine(self) -> EngineSettings:
        """The engine's part of the settings; listed adapters need slots."""
        chosen = {name: getattr(self, name) for name in EngineSettings.model_fields}
        if self.adapters and not self.adapter_slots:
            chosen["adapter_slots"] = _DEFAULT_SLOTS
        return EngineSettings.model_validate(chosen)


def resolve_dtype(dtype: str, device: Device = "auto") -> str:
    """`auto` by the hardware: without BF16 units a CPU multiplies bfloat16 several times slower than float32.

    For `gpu` this machine must have one.
    """
    if dtype != "auto":
        return dtype
    found = detect(device)
    return "bfloat16" if found.bf16 else "float32" if found.gpu is None else "float16"
