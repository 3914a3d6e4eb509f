"""Embedding tables of an engine on a CPU: packed for matrix products when the first product is asked of them.

vLLM 0.29 packs a copy of every table for oneDNN while it loads a model. Looking tokens up needs none, so that with tied
ends a table lies in memory three times: as it is, packed for products that nobody asks for, and packed for the output
layer. The middle one is 47 MiB for 32,000 tokens of 768 channels in bfloat16, 0.5 GiB for 128,000 of 2,048. The last
one stays: without it the output layer takes 1.1 to 2 times as long in bfloat16, up to 4.6 times in float32.
"""

from typing import Any


def pack_when_used() -> None:
    """To be called in the process of the engine before it loads a model; elsewhere than on a CPU it changes nothing."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod
    from vllm.platforms import current_platform

    pack: Any = UnquantizedEmbeddingMethod.process_weights_after_loading

    def later(method: Any, layer: Any) -> None:
        def pack_first(*operands: Any) -> Any:  # some models (Gemma) have no output layer but their table
            pack(method, layer)  # puts the packed product in this one's place
            return layer.cpu_linear(*operands)

        if isinstance(layer, ParallelLMHead):
            pack(method, layer)
        else:
            layer.cpu_linear = pack_first

    if current_platform.is_cpu():
        setattr(UnquantizedEmbeddingMethod, "process_weights_after_loading", later)  # noqa: B010 (mypy)
