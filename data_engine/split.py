"""Which documents are held out: a stable hash of the document id, the same in every stage that asks."""

import hashlib

TRAIN = "train"
VALIDATION = "validation"
VALIDATION_FRACTION = 0.05


def split_of(document_id: str, validation_fraction: float = VALIDATION_FRACTION) -> str:
    """`validation` for a `validation_fraction` of all ids, else `train`.

    The splits are nested: what a smaller fraction holds out, a larger one holds out as well. So a stage that derives
    test questions with a fraction no larger than the tokenizer's asks only about documents that no training saw.
    """
    point = int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8, person=b"split").digest(), "big")
    return VALIDATION if point < validation_fraction * 2**64 else TRAIN
