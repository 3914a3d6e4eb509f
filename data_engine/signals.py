"""Every signal that policies bound, measured in compiled passes over a batch of texts."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from data_engine import classify, datatrove_flavour, languages
from data_engine.kernels import c4, lines, repetition, vocabulary, words
from data_engine.kernels.unicode import buffers, code_points
from data_engine.policies import Policies

NAMES = (
    *words.COLUMNS,
    *repetition.COLUMNS,
    *lines.COLUMNS,
    *c4.COLUMNS,
    "newlines_per_word",
    "stop_words",
    "toxic_words",
    "quality",
)
"""The fields of the `signals` struct in order. Those of the kernels are described there. newlines_per_word: line breaks
per token (kernels.words). stop_words: different stop words of the document's language. toxic_words: words on
its toxic list, per word, a document counting at least 100 words. quality: see `_quality`."""


def names(policies: Policies) -> list[str]:
    """NAMES and the scores of the configured classifiers."""
    return [*NAMES, *(model.signal for model in policies.classifiers.models)]


def struct_type(policies: Policies) -> pa.DataType:
    """The type of the `signals` column."""
    return pa.struct([pa.field(name, pa.float64()) for name in names(policies)])


_LEAST_WORDS_OF_TOXICITY = 100.0


def measure(texts: pa.Array, document_languages: Sequence[str], policies: Policies) -> dict[str, np.ndarray]:
    """Measure a batch. texts: n strings; document_languages: a label for each. Returns (n,) float64 arrays by name.

    NaN means that the signal does not apply to the document; rules on it pass.
    """
    utf8, offsets = buffers(texts)
    codes = [languages.base(language) for language in document_languages]
    signals = _words(utf8, offsets)
    if policies.flavour == "datatrove":
        signals.update(datatrove_flavour.measure(utf8, offsets, policies))
        toxic = _toxic(utf8, offsets, codes)
    else:
        signals.update(_repetition_and_lines(utf8, offsets, signals["unspaced"], policies))
        total, distinct = _matches(utf8, offsets, codes)
        toxic = total[:, 1]
        signals["stop_words"] = distinct[:, 0].copy()
        signals["newlines_per_word"] = signals["newlines"] / np.maximum(signals["tokens"], 1.0)
        endless = np.array([code in languages.WITHOUT_SENTENCE_TERMINALS for code in codes], bool)
        for name in ("terminal_lines", "c4_sentences", "c4_kept_lines"):
            signals[name][endless] = np.nan
    signals["toxic_words"] = toxic / np.maximum(signals["words"], _LEAST_WORDS_OF_TOXICITY)
    signals["quality"] = _quality(signals)
    for model in policies.classifiers.models:
        signals[model.signal] = classify.scores(texts, model)
    return {name: signals[name] for name in names(policies)}


def _words(utf8: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """words.COLUMNS by name."""
    columns = np.empty((offsets.size - 1, len(words.COLUMNS)))
    words.word_statistics(utf8, offsets, code_points().classes, columns)
    return dict(zip(words.COLUMNS, columns.T.copy(), strict=True))


def _repetition_and_lines(
    utf8: np.ndarray, offsets: np.ndarray, unspaced: np.ndarray, policies: Policies
) -> dict[str, np.ndarray]:
    """repetition.COLUMNS, lines.COLUMNS and c4.COLUMNS by name."""
    documents = offsets.size - 1
    classes = code_points().classes
    repetition_columns = np.empty((documents, len(repetition.COLUMNS)))
    repetition.repetition(utf8, offsets, classes, unspaced, repetition_columns)
    line_columns = np.empty((documents, len(lines.COLUMNS)))
    lines.line_statistics(utf8, offsets, classes, policies.fineweb.short_line, line_columns)
    c4_columns = np.empty((documents, len(c4.COLUMNS)))
    c4.c4_statistics(
        *(utf8, offsets, classes),
        *(policies.c4.min_words_per_line, policies.c4.max_word_length, policies.c4.terminal_punctuation),
        *(c4.PHRASE_BYTES, c4.PHRASE_STARTS, c4.PHRASE_KINDS, c4.PHRASE_FIRST, c4_columns),
    )
    names = (*repetition.COLUMNS, *lines.COLUMNS, *c4.COLUMNS)
    return dict(zip(names, np.hstack([repetition_columns, line_columns, c4_columns]).T.copy(), strict=True))


def _matches(utf8: np.ndarray, offsets: np.ndarray, codes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Matches with the stop words and the toxic words of each document's language: (n, 2) in all, (n, 2) distinct."""
    lists, first_toxic = _word_lists()
    rows = np.stack([languages.stop_words().rows(codes), first_toxic + _toxic_rows(codes)], axis=1)
    return _counted(utf8, offsets, rows, lists)


def _toxic(utf8: np.ndarray, offsets: np.ndarray, codes: Sequence[str]) -> np.ndarray:
    """(n,) matches with the toxic words alone."""
    return _counted(utf8, offsets, _toxic_rows(codes)[:, None].copy(), languages.toxic_words())[0][:, 0]


def _toxic_rows(codes: Sequence[str]) -> np.ndarray:
    toxic = languages.toxic_words()
    return toxic.rows([code if code in toxic.languages else languages.COMMON for code in codes])


def _counted(
    utf8: np.ndarray, offsets: np.ndarray, rows: np.ndarray, lists: vocabulary.WordLists
) -> tuple[np.ndarray, np.ndarray]:
    total, distinct = np.empty(rows.shape), np.empty(rows.shape)
    classes, lower = code_points()
    vocabulary.count_matches(utf8, offsets, classes, lower, rows, lists.keys, lists.starts, lists.seen, total, distinct)
    return total, distinct


@cache
def _word_lists() -> tuple[vocabulary.WordLists, np.int32]:
    """Both kinds of lists, so that one pass looks for both, and the row of the first toxic one."""
    stop = languages.stop_words()
    return stop.beside(languages.toxic_words()), np.int32(len(stop.languages))


def _quality(signals: dict[str, np.ndarray]) -> np.ndarray:
    """A heuristic order of near copies, in 0 to 1: alphabetic words, times text that does not repeat, times
    lines that are no fragments. It only chooses among copies of one text (`dedup.survivor: best_quality`)."""
    return signals["alphabetic_words"] * (1 - signals["duplicate_5_gram"]) * (1 - 0.5 * signals["short_lines"])


def to_arrow(signals: dict[str, np.ndarray]) -> pa.StructArray:
    """The `signals` column. NaN becomes null: 'not measured'."""
    columns = [pa.array(values, pa.float64(), from_pandas=True) for values in signals.values()]
    return pa.StructArray.from_arrays(columns, names=list(signals))


def from_arrow(column: pa.Array) -> dict[str, np.ndarray]:
    """The signals of a `signals` column as (n,) float64 arrays, null as NaN."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return {
        field.name: column.field(field.name).cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
        for field in column.type
    }
