"""Render data_engine/english/rules.json from spaCy's blank English: `python tests/oracles/english_rules.py`.

Classes of characters are found by asking the compiled expressions about every code point, exceptions are copied, so the
file says what spaCy does, not how it says so.
"""

import json
import re
from pathlib import Path

import spacy
from datatrove.utils.text import TERMINAL_PUNCTUATION
from spacy.lang import char_classes
from spacy.tokenizer import Tokenizer

PATH = Path(__file__).resolve().parents[2] / "data_engine" / "english" / "rules.json"


def ranges(holds):
    """The code points for which `holds` is true, as [first, last] pairs; surrogates are no characters."""
    found = []
    for point in range(0x110000):
        if 0xD800 <= point < 0xE000 or not holds(chr(point)):
            continue
        if found and found[-1][1] == point - 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return found


def one_of(*characters):
    return re.compile("[" + "".join(characters) + "]").fullmatch


def rules():
    nlp = spacy.blank("en")
    tokenizer = nlp.tokenizer
    without_exceptions = Tokenizer(
        nlp.vocab,
        rules={},
        prefix_search=tokenizer.prefix_search,
        suffix_search=tokenizer.suffix_search,
        infix_finditer=tokenizer.infix_finditer,
        url_match=tokenizer.url_match,
    )
    quotes, punctuation = f"(?:{char_classes.CONCAT_QUOTES})", char_classes.PUNCT
    lower, upper = char_classes.ALPHA_LOWER, char_classes.ALPHA_UPPER
    classes = {
        "prefix": lambda c: tokenizer.find_prefix(c) == 1 and c not in "+",
        "suffix": lambda c: tokenizer.find_suffix("\u0378" + c) == 1,
        "infix": lambda c: len(tokenizer.find_infix("\u0378" + c + "\u0378")) == 1,
        "letter": one_of(char_classes.ALPHA),
        "before_dot": one_of(lower, char_classes.CONCAT_QUOTES),
        "after_dot": one_of(upper, char_classes.CONCAT_QUOTES),
        "upper": one_of(upper),
        "dot_suffix": one_of("0-9", lower, r"%²\-\+", punctuation, quotes),
        "lower": one_of(lower),
        "sentence_end": SENTENCE_ENDS.__contains__,
    }
    exceptions = {text: [len(piece[65]) for piece in pieces] for text, pieces in sorted(tokenizer.rules.items())}
    visible = {text: pieces for text, pieces in exceptions.items() if not any(map(str.isspace, text))}
    joined = {
        text: [len(token.text) for token in without_exceptions(text)]
        for text in visible
        if tokenizer.find_prefix(text) or tokenizer.find_infix(text) or tokenizer.find_suffix(text)
    }
    after_digits = [*char_classes.CURRENCY.split("|"), *char_classes.UNITS.split("|")]
    return {
        "source": f"spaCy {spacy.__version__}, blank English; MIT licence, (c) ExplosionAI GmbH and others",
        "classes": {name: ranges(holds) for name, holds in classes.items()},
        "terminals": "".join(sorted(TERMINAL_PUNCTUATION)),
        "after_digits": sorted({text.replace("\\", "") for text in after_digits}),
        "exceptions": visible,
        "joined": joined,
    }


SENTENCE_ENDS = set(spacy.pipeline.Sentencizer.default_punct_chars)


def render(found):
    lines = ["{", f' "source": {json.dumps(found["source"], ensure_ascii=False)},', ' "classes": {']
    lines.append(",\n".join(f'  "{name}": {json.dumps(pairs)}' for name, pairs in found["classes"].items()))
    lines.append(" },")
    for name in ("terminals", "after_digits", "exceptions", "joined"):
        lines.append(f' "{name}": {json.dumps(found[name], ensure_ascii=False)}' + ("" if name == "joined" else ","))
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    PATH.write_text(render(rules()), encoding="utf-8")
