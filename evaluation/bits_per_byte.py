"""Bits per byte of held-out documents: compares models across tokenizers, for bytes are the same for all."""

from math import log
from typing import Literal

import numpy as np
from pydantic import Field

from core import checkpoint
from core.config import InputPath
from core.errors import UserError
from core.loglikelihood import Request, score, start_token
from core.token_set import TokenSet
from evaluation.task import Rows, Sample, Subject, Task


class BitsPerByte(Task):
    """-sum log2 p(token) / bytes of text, over the documents of the validation split.

    The separator that closes a document is coded as well, as in the trainer's validation loss: so the figure is the
    length of a code from which the documents can be read back. Each document starts from the separator before it.
    """

    type: Literal["bits_per_byte"]
    tokens: InputPath = Field(description="token artifact; its validation split is scored")
    limit: int | None = Field(None, ge=1, description="documents at most, the first by id; none uses all")

    def read(self) -> Rows:
        """Row numbers of the validation documents, by id: a token artifact's index says where they lie."""
        tokens = TokenSet(self.tokens)
        rows = tokens.rows("validation")
        sizes = tokens.index.column("bytes").to_numpy()
        rows = rows[sizes[rows] > 0]
        if not len(rows):
            raise UserError(f"{self.tokens}: its validation split is empty; set validation_fraction in data tokenize")
        ids = np.asarray(tokens.index.column("id").to_pylist(), dtype=object)
        chosen = sorted(rows.tolist(), key=lambda row: ids[row])[: self.limit]
        return Rows([(str(ids[row]), tokens.tokens(row), int(sizes[row])) for row in chosen], len(chosen))

    def evaluate(self, rows: Rows, subject: Subject) -> list[Sample]:
        """Bits of each document; a model with another tokenizer reads the same text in its own tokens."""
        own = checkpoint.load_tokenizer(TokenSet(self.tokens).tokenizer)
        same = own.get_vocab() == subject.tokenizer.get_vocab()
        start = start_token(subject.tokenizer)
        requests = []
        for _, document, _ in rows.rows:
            ids = document.tolist()
            if not same:
                text = own.decode(ids[:-1], clean_up_tokenization_spaces=False)
                ids = [*subject.tokenizer.encode(text, add_special_tokens=False), subject.tokenizer.eos_token_id]
            requests.append(Request([start], ids))
        scores = score(subject.model, requests, subject.batch_tokens, on_batch=subject.advance)
        return [
            Sample(self.key, identifier, {"bits_per_byte": -found.logprob / log(2)}, weight=size)
            for (identifier, _, size), found in zip(rows.rows, scores, strict=True)
        ]
