"""In the measuring process, where vLLM is imported and its embedding tables are packed late."""

from typing import Any


def multiplied() -> dict[str, Any]:
    """What an embedding table is like before, in and after its first product."""
    import torch
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    method, layer = UnquantizedEmbeddingMethod(), torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.randn(96, 64), requires_grad=False)
    x_BD = torch.randn(5, 64)
    method.process_weights_after_loading(layer)
    loaded = layer.cpu_linear
    found_BV = method.apply(layer, x_BD)
    packed = layer.cpu_linear
    again_BV = method.apply(layer, x_BD)
    expected_BV = torch.nn.functional.linear(x_BD, layer.weight)
    return {
        "packed_by": [one.__module__ for one in (loaded, packed)],
        "packed_once": packed is layer.cpu_linear,
        "error": float(max((found_BV - expected_BV).abs().max(), (again_BV - expected_BV).abs().max())),
        "looked_up": torch.equal(method.embedding(layer, torch.tensor([3])), layer.weight[3:4]),
    }
