"""How an engine is built: settings a user may choose, and what they mean to vLLM. Imports neither vLLM nor Ray."""

import os
from typing import Annotated, Any, Literal

from pydantic import Field

from core.config import RUNTIME, Config

_GIB = 1 << 30


class Speculative(Config):
    """Draft tokens that the model checks several at a time; greedy answers stay the same."""

    method: Literal["none", "ngram"] = Field("none", description="ngram drafts what followed the same tokens before")
    tokens: int = Field(4, ge=1, le=16, description="draft tokens checked in one step")
    prompt_lookup_max: int = Field(4, ge=1, description="longest n-gram looked up")
    prompt_lookup_min: int = Field(2, ge=1, description="shortest n-gram looked up")


class EngineSettings(Config):
    """What one vLLM engine is started with."""

    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of activations and unquantized weights; auto: bfloat16 where the CPU has units for it"
    )
    max_model_len: int | None = Field(
        None, ge=8, description="longest prompt and answer together; None: the model's own"
    )
    max_num_seqs: int = Field(8, ge=1, description="requests that the engine works on together")
    kv_cache_gib: float = Field(0.5, gt=0, description="memory for keys and values, GiB")
    compile: bool = Field(
        False, description="torch.compile the model: about 45 s more to start on 2 cores, then faster steps"
    )
    speculative: Speculative = Field(default_factory=Speculative, description="speculative decoding")
    threads: Annotated[int | None, RUNTIME] = Field(None, ge=1, description="OpenMP threads; None: every core")

    def arguments(self, seed: int) -> dict[str, Any]:
        """Keyword arguments of vLLM's engine."""
        arguments: dict[str, Any] = {
            "dtype": resolve_dtype(self.dtype),
            "max_num_seqs": self.max_num_seqs,
            "kv_cache_memory_bytes": int(self.kv_cache_gib * _GIB),
            "enforce_eager": not self.compile,
            "seed": seed,
        }
        if self.max_model_len is not None:
            arguments["max_model_len"] = self.max_model_len
        if self.speculative.method == "ngram":
            arguments["speculative_config"] = {
                "method": "ngram",
                "num_speculative_tokens": self.speculative.tokens,
                "prompt_lookup_max": self.speculative.prompt_lookup_max,
                "prompt_lookup_min": self.speculative.prompt_lookup_min,
            }
        return arguments

    def environment(self) -> dict[str, str]:
        """Environment of the replica and of the engine process that it starts.

        Thread binding is off: vLLM would reserve one core for its scheduler, half of a machine with two. Nothing may
        be looked up on the network.
        """
        variables = {
            "OMP_NUM_THREADS": str(self.threads or os.cpu_count() or 1),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if not self.compile:
            # A few helpers of vLLM compile themselves all the same: the first request for log-probabilities then holds
            # every other request up for 25 s on 2 cores.
            variables["TORCHDYNAMO_DISABLE"] = "1"
        return variables


def resolve_dtype(dtype: str) -> str:
    """`auto` by the hardware: without BF16 units a CPU multiplies bfloat16 several times slower than float32."""
    if dtype != "auto":
        return dtype
    from serving.hardware import detect

    return "bfloat16" if detect().bf16 else "float32"
