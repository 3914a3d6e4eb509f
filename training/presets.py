"""Shapes of models from 5 M to 8 B parameters, to begin with instead of choosing every width."""

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["5m", "15m", "60m", "160m", "410m", "1b", "3b", "8b"]

_LONG = {"rope_theta": 500_000.0, "max_length": 8192}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "5m": {"hidden_size": 256, "layers": 4, "heads": 4, "intermediate_size": 688},
    "15m": {"hidden_size": 384, "layers": 6, "heads": 6, "intermediate_size": 1024},
    "60m": {"hidden_size": 512, "layers": 14, "heads": 8, "intermediate_size": 1408, "max_length": 2048},
    "160m": {"hidden_size": 768, "layers": 18, "heads": 12, "intermediate_size": 2048, "max_length": 2048},
    # As wide and deep as Pythia 410M (Biderman et al. 2023, arXiv:2304.01373).
    "410m": {
        "hidden_size": 1024, "layers": 24, "heads": 16, "intermediate_size": 2816, "tie_embeddings": False,
        "max_length": 4096,
    },
    # Shapes of Llama 3.2 1B, 3.2 3B and 3.1 8B (their config.json).
    "1b": {
        "hidden_size": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "head_size": 64, "intermediate_size": 8192,
        **_LONG,
    },
    "3b": {
        "hidden_size": 3072, "layers": 28, "heads": 24, "kv_heads": 8, "head_size": 128, "intermediate_size": 8192,
        **_LONG,
    },
    "8b": {
        "hidden_size": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "head_size": 128, "intermediate_size": 14_336,
        "tie_embeddings": False, **_LONG,
    },
}  # fmt: skip
"""Settings of `ModelConfig`, the others as they are. The names hold with a vocabulary of 8,192 for 5m and 15m, 32,768
for 60m and 160m, 50,304 for 410m and 128,256 from 1b on."""
