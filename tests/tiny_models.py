"""Tiny checkpoints with a real tokenizer, made on the spot: what tests of training, evaluation and serving need."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data_engine import byte_level_bpe

TEXT = [
    "json.dumps is a function in the module json of the standard library.",
    "Serialize obj to a JSON formatted str, and return it to the caller.",
    "A class whose instances are names of temperature scales, as the user spells them.",
] * 4


def save_tokenizer(directory: Path, vocab_size: int = 320) -> Path:
    byte_level_bpe.save(byte_level_bpe.train(TEXT, vocab_size), directory)
    return directory


def save_model(directory: Path, seed: int = 0, max_length: int = 128, vocab_size: int = 320) -> Path:
    """A Llama of random weights; scaled up, so that its predictions are far from uniform."""
    save_tokenizer(directory, vocab_size)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory
