"""Signals by datatrove's definitions, for `policies.flavour: datatrove`."""

import numpy as np

from data_engine import english
from data_engine.kernels import c4, datatrove
from data_engine.kernels.datatrove_lines import C4Rules
from data_engine.policies import Policies


def measure(utf8: np.ndarray, offsets: np.ndarray, policies: Policies) -> dict[str, np.ndarray]:
    """The signals that datatrove's filters compute, (n,) float64 each, under the names that the rules read.

    utf8, offsets: as from kernels.unicode.buffers. Every document is cut as English is, as those filters do when no
    other language is asked for; FineWeb's rules see what C4 leaves, where C4 is switched on.
    """
    rules = C4Rules(
        edits=policies.c4.enabled,
        lorem=policies.c4.max_lorem_ipsum is not None,
        curly=policies.c4.max_curly_brackets is not None,
        terminal_needed=policies.c4.terminal_punctuation,
        min_words=policies.c4.min_words_per_line,
        max_word_length=policies.c4.max_word_length,
        phrases=c4.PHRASE_BYTES,
        phrase_starts=c4.PHRASE_STARTS,
        phrase_kinds=c4.PHRASE_KINDS,
        phrase_first=c4.PHRASE_FIRST,
    )
    columns = np.empty((offsets.size - 1, len(datatrove.COLUMNS)))
    datatrove.datatrove_statistics(
        utf8, offsets, english.rules(), datatrove.STOP_WORDS_PACKED, rules, policies.fineweb.short_line, columns
    )
    return dict(zip(datatrove.COLUMNS, columns.T.copy(), strict=True))
