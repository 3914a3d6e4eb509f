"""What differs from language to language: stop words, word lists, and rules that do not apply."""

from functools import cache
from pathlib import Path

from data_engine.kernels.vocabulary import WordLists

WITHOUT_SENTENCE_TERMINALS = frozenset({"th", "lo"})
"""Languages whose sentences end with a space: rules on sentence ends say nothing there."""

COMMON = "common"
"""The list of toxic words for languages that have none of their own."""

_HERE = Path(__file__).parent


def _read(folder: str) -> dict[str, list[str]]:
    lists = {}
    for path in sorted((_HERE / folder).glob("*.txt")):
        lines = (line.partition("#")[0].strip().lower() for line in path.read_text(encoding="utf-8").splitlines())
        lists[path.stem] = [word for line in lines for word in line.split()]
    return lists


@cache
def stop_words() -> WordLists:
    """The most frequent function words of each language in stopwords/."""
    return WordLists.of(_read("stopwords"))


@cache
def toxic_words() -> WordLists:
    """The toxic words of each language in wordlists/, each with those of common.txt."""
    lists = _read("wordlists")
    common = lists[COMMON]
    return WordLists.of({language: [*words, *common] for language, words in lists.items()})


def base(language: str) -> str:
    """The ISO 639 part of a label: 'zh' of 'zh-tw', 'eng' of GlotLID's 'eng_Latn' becomes 'en'."""
    code = language.replace("_", "-").partition("-")[0]
    return _ISO_639_3.get(code, code)


_ISO_639_3 = {
    "ara": "ar", "bul": "bg", "ces": "cs", "cmn": "zh", "dan": "da", "deu": "de", "ell": "el", "eng": "en",
    "est": "et", "fas": "fa", "fin": "fi", "fra": "fr", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu",
    "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "lao": "lo", "lav": "lv", "lit": "lt", "nld": "nl",
    "nob": "no", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "slk": "sk", "slv": "sl", "spa": "es",
    "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi", "zho": "zh",
}  # fmt: skip
