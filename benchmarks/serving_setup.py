"""What the benchmarks of serving share: Llamas of 100 M parameters, engines as `serve up` builds them."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core import checkpoint
from serving.engine import EngineSettings
from serving.format_speed import Job

VOCABULARY = 32_000
PROMPT_TOKENS, NEW_TOKENS = 64, 64


def llama(layers: int = 12, width: int = 768, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """Random weights; 12 layers of 768 and 32,000 tokens are 110 M parameters, 134 M with untied ends."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def by_table(model: LlamaForCausalLM, next_token_V: torch.Tensor, seed: int = 1) -> LlamaForCausalLM:
    """Greedy decoding follows a table: after token t comes next_token_V[t], a permutation.

    The output row of next_token_V[t] is the embedding of t, which the residual stream carries through all layers; they
    keep their random weights and add to it what is too little to change the largest logit.
    """
    rows_VD = torch.randn(VOCABULARY, model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(rows_VD)
        model.lm_head.weight[next_token_V] = rows_VD
    return model


def cycles(length: int, seed: int = 0) -> torch.Tensor:
    """A table that runs through all tokens in cycles of `length`, (V,)."""
    order_V = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(seed))
    next_token_V = torch.empty_like(order_V)
    for cycle in order_V.split(length):
        next_token_V[cycle] = cycle.roll(-1)
    return next_token_V


def walk(next_token_V: torch.Tensor, first: int, tokens: int) -> list[int]:
    """What greedy decoding by the table writes, `first` included."""
    path = [first]
    for _ in range(tokens - 1):
        path.append(int(next_token_V[path[-1]]))
    return path


def save(model: LlamaForCausalLM, directory: Path, dtype: torch.dtype = torch.float32) -> str:
    """With a tokenizer whose words are the numbers of the tokens: llm-compressor asks for one."""
    model.to(dtype).save_pretrained(directory)
    words = Tokenizer(WordLevel({str(number): number for number in range(VOCABULARY)}, unk_token="0"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(directory)
    return str(directory)


def job(name: str, directory: str, settings: EngineSettings) -> Job:
    """The engine that `serve up` would start for the checkpoint."""
    return Job(name, directory, settings.arguments(0, checkpoint.check(directory)))


def quiet(names: Sequence[str] = ("transformers", "datasets")) -> None:
    logging.disable(logging.INFO)
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
