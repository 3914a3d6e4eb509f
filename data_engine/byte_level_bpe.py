"""A byte-level BPE tokenizer: trained, wrapped as a Hugging Face tokenizer with a ChatML template, saved.

Byte-level BPE (Radford et al. 2019, GPT-2): text is cut by GPT-2's pattern, each piece is spelled in bytes, frequent
neighbours are merged. No normaliser and no unknown token, so decode(encode(text)) == text for every text.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, MESSAGE_START, MESSAGE_END)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

# ChatML. The generation block marks what the assistant is trained to say: its content and the token that ends it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}"
    "{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn `vocab_size` entries at most (fewer when the text runs out of pairs). The order of texts does not matter.

    Merges are chosen by count, ties by the ids of the pair, and counts do not depend on the order of texts.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> None:
    """Write a Hugging Face tokenizer directory: loads in `transformers` and vLLM, adds no token of its own."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        additional_special_tokens=[MESSAGE_START, MESSAGE_END],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory, save_jinja_files=False)
