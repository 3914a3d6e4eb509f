"""Checkpoints and texts for the tests of serving."""

import json
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.tiny_models import TEXT, save_tokenizer

CONTEXT = 1024


def documents(count: int) -> list[dict[str, str]]:
    return [{"id": f"{number:032x}", "text": f"{TEXT[number % 3]} It is number {number}."} for number in range(count)]


def write_parquet(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def save_speller(
    directory: Path,
    seed: int = 0,
    width: int = 64,
    layers: int = 2,
    kv_heads: int = 1,
    projections: float = 1.0,
    inner: int | None = None,
) -> Path:
    """A random Llama that vLLM's CPU kernels take (heads of 32) and that, when greedy, writes ASCII letters alone.

    Each letter is one token, so that the text of an answer says which tokens were chosen: the rows of every other
    token in the output layer are zero, and some letter's logit is above zero. projections: a factor on the weights of
    the layers; small ones do not amplify what rounding adds.
    """
    tokenizer = AutoTokenizer.from_pretrained(save_tokenizer(directory))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner or 2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config)
    letters = tokenizer.convert_tokens_to_ids(list(string.ascii_letters))
    rows = torch.zeros(len(tokenizer), 1)
    rows[letters] = 1
    with torch.no_grad():
        model.lm_head.weight.mul_(rows)
        for name, weight in model.named_parameters():
            weight.mul_(projections if "_proj" in name else 1.0)
    model.save_pretrained(directory)
    return directory


def save_eagle3_head(directory: Path, target: Path) -> Path:
    """A random EAGLE-3 head for a Llama of two layers: one decoder layer over a token's embedding and its states.

    Named as https://github.com/SafeAILab/EAGLE publishes heads; it has no embedding of its own.
    """
    own = json.loads((target / "config.json").read_text())
    width, inner, heads = own["hidden_size"], own["intermediate_size"], own["num_attention_heads"]
    seen = {"num_aux_hidden_states": 2, "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1]}}
    config = own | {"architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1} | seen
    shapes = {
        "fc": (width, 2 * width),
        "lm_head": (own["vocab_size"], width),
        "midlayer.self_attn.q_proj": (width, 2 * width),
        "midlayer.self_attn.k_proj": (width // heads * own["num_key_value_heads"], 2 * width),
        "midlayer.self_attn.v_proj": (width // heads * own["num_key_value_heads"], 2 * width),
        "midlayer.self_attn.o_proj": (width, width),
        "midlayer.mlp.gate_proj": (inner, width),
        "midlayer.mlp.up_proj": (inner, width),
        "midlayer.mlp.down_proj": (width, inner),
    }
    norms = ("norm", "midlayer.hidden_norm", "midlayer.input_layernorm", "midlayer.post_attention_layernorm")
    generator = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights |= {f"{name}.weight": torch.ones(width) for name in norms}
    directory.mkdir(parents=True)
    save_file(weights, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory
