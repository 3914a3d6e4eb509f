"""Text in the charset that its page means, never an error."""

import pytest

from data_engine.charset import decode, tidy

TEXT = "Grüße aus Köln – €5 für „Käse“"


@pytest.mark.parametrize(
    ("payload", "declared"),
    [
        (TEXT.encode(), "utf-8"),
        (TEXT.encode(), None),
        (TEXT.encode(), "x-unknown-9"),
        (TEXT.encode(), "ascii"),
        (b"\xef\xbb\xbf" + TEXT.encode(), "iso-8859-1"),
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), None),
        (TEXT.encode("cp1252"), "iso-8859-1"),
        (TEXT.encode("cp1252"), "windows-1252"),
    ],
)
def test_declared_and_undeclared_charsets(payload, declared):
    assert decode(payload, declared) == TEXT


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<meta charset="koi8-r">', "koi8-r"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">', "cp1251"),
        ("<?xml version='1.0' encoding='euc-jp'?>", "euc-jp"),
    ],
)
def test_the_page_itself_may_say(head, encoding):
    text = head + ("日本語の文" if encoding == "euc-jp" else "Привет, мир")
    assert decode(text.encode(encoding)) == text


def test_nothing_declared_and_not_utf8_is_detected():
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20
    assert decode(text.encode("cp1251")) == text


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"\x00\x80\xfe", b"<meta charset=base64>\xff", b"<meta charset=utf-16>a"]
)
def test_no_bytes_fail(payload):
    assert isinstance(tidy(decode(payload, "hex")).encode(), bytes)


def test_tidy_text_can_go_into_arrow():
    assert tidy("a\r\nb\rc\x00\ud800") == "a\nb\nc?"
