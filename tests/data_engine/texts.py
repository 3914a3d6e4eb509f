"""Texts that break careless loops, and strategies that make more."""

import pyarrow as pa
from hypothesis import strategies as st

from data_engine.kernels.unicode import buffers, code_points

ADVERSARIAL = [
    "",
    " ",
    "\n",
    "\n\n\n",
    "word",
    "nospaces" * 300,
    "x" * 100_000,
    "a b " * 2000,
    ". . . ...",
    "....",
    "……",
    "# ## ### #hash",
    "[1]",
    "Ends here.[12]",
    "Ends here.[citation needed]",
    'He said "yes."',
    "- a\n- b\n* c\n• d\ntext",
    "a\n\nb\n\na\n\nb",
    "same line\nsame line\nother\nsame line",
    "tail without newline\n",
    "\u2028separator\u2029",
    "non\u00a0breaking\u3000wide",
    "emoji 😀😀 𝒳𝒴 🇩🇪 end",
    "עברית מימין לשמאל. עוד משפט.",
    "العربية من اليمين إلى اليسار؟ نعم.",
    "这是一个句子。这是另一个句子！混合 English 文字。",
    "これは文です。これも文です？",
    "ภาษาไทยไม่มีช่องว่าง",
    "हिन्दी में लिखा वाक्य। दूसरा वाक्य।",
    "İstanbul ẞ ǅ ΑΣ",
    "e\u0301 combining \u0300 alone",
    "\U00020000\U0002a6d6 rare han",
    "don't l'été O’Neil",
    "3.14 is pi. 1,000 is more.",
    "lorem ipsum dolor sit amet now.",
    "Use JavaScript and { braces } in this line.",
    "This site uses cookies for you.",
    "{" * 50,
]
"""Empty, one word, no spaces, long line, astral characters, right to left, no spaces between words."""

ALPHABET = "ab cA.?!…\n#\"'-•*[1]{。！？字の،ا ऀ\u0301😀\t\u00a0"
random_texts = st.lists(st.text(st.sampled_from(ALPHABET), max_size=80), min_size=1, max_size=6)
wordy_texts = st.lists(
    st.lists(st.sampled_from(["a", "bb", "cc.", "字", "d\n", "\n\n", "e"]), max_size=60).map(" ".join),
    min_size=1,
    max_size=4,
)


def arrays(texts):
    """Buffers of texts, and the tables: utf8, offsets, classes, lower."""
    return (*buffers(pa.array(texts, pa.large_string())), *code_points())
