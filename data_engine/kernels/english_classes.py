"""What a character is to the rules that cut English: bits of `English.classes`."""

(
    SPACE, PREFIX, SUFFIX, INFIX, LETTER, BEFORE_DOT, AFTER_DOT, UPPER, DOT_SUFFIX, LOWER, ASCII_DIGIT, DIGIT,
    ALPHABETIC, PUNCTUATION, SYMBOL, SENTENCE_END, TERMINAL, LINE_BREAK, HOST, SCHEME, RULED,
) = (1 << bit for bit in range(21))  # fmt: skip
"""Bits of a class. PREFIX, SUFFIX, INFIX: such a character alone. BEFORE_DOT, AFTER_DOT: between these a full stop is
an infix. DOT_SUFFIX: after these it is a suffix. PUNCTUATION: Unicode's P; SYMBOL: on datatrove's list of punctuation;
TERMINAL: on its list of terminal punctuation; LINE_BREAK: where str.splitlines cuts; HOST, SCHEME: of an address.
RULED: some rule looks at it; a piece without such a character is one word or an exception."""
