"""Text in the charset that its page means, never an error."""

import pytest

from data_engine import read_warc
from data_engine.charset import decode, tidy
from data_engine.records import Skips

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


MENTIONS = [
    'Пример: <meta charset="windows-1251"> текст',
    '# Doc\n<meta charset="koi8-r">\nПривет',
    '例 <meta charset="euc-kr"> テスト',
    'café <meta charset="windows-1250">',
    '<?xml version="1.0" encoding="gbk"?> 汉字',
]


@pytest.mark.parametrize("text", MENTIONS)
@pytest.mark.parametrize("declared", [None, "iso-8859-1", "windows-1251", "gbk", "utf-8"])
def test_text_that_mentions_a_charset_is_no_page_that_declares_one(text, declared):
    assert decode(text.encode(), declared, html=False) == text


def test_text_that_is_no_utf8_goes_by_what_is_declared():
    assert decode(RUSSIAN.encode("koi8-r"), "koi8-r", html=False) == RUSSIAN
    assert decode(JAPANESE_7_BIT.encode("iso-2022-jp"), "iso-2022-jp", html=False) == JAPANESE_7_BIT


@pytest.mark.parametrize("label", ["windows-1251", "koi8-r", "iso-8859-2", "windows-1250", "tis-620", "windows-1255"])
def test_a_page_in_utf8_under_a_label_of_single_bytes_is_utf8(label):
    for text in (RUSSIAN, JAPANESE, TEXT):
        assert decode(text.encode(), label) == text
        assert decode(f'<meta charset="{label}">{text}'.encode()) == f'<meta charset="{label}">{text}'


def test_a_page_under_a_label_of_several_bytes_is_what_it_says():
    """These two letters of GBK are valid UTF-8, as a few often are."""
    payload = "<p>隆垄</p>".encode("gbk")
    assert payload.decode("utf-8")
    assert decode(payload, "gbk") == "<p>隆垄</p>"


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


JAPANESE = "<p>①ソフトウェア表示～髙橋</p>"
JAPANESE_7_BIT = "日本語の文"
RUSSIAN = "<p>Съешь же ещё этих мягких французских булок</p>"


@pytest.mark.parametrize(
    ("payload", "declared", "text"),
    [
        # WHATWG reads these labels as their Windows supersets: ① and 髙 are in cp932 and not in JIS X 0208
        (JAPANESE.encode("cp932"), "Shift_JIS", JAPANESE),
        (JAPANESE.encode("cp932"), "x-sjis", JAPANESE),
        ("<p>똠방각하</p>".encode("cp949"), "euc-kr", "<p>똠방각하</p>"),
        ("<p>朱镕基</p>".encode("gb18030"), "gb2312", "<p>朱镕基</p>"),
        (RUSSIAN.encode("cp1251"), "windows-1251", RUSSIAN),
        (RUSSIAN.encode("utf-16"), "windows-1251", RUSSIAN),
        (RUSSIAN.encode("utf-16-le"), "utf-16le", RUSSIAN),
        (RUSSIAN.encode("utf-16-be"), "UTF-16", RUSSIAN),
        (b"<p>plain</p>", "utf-16", "<p>plain</p>"),
    ],
)
def test_real_bytes_of_many_charsets(payload, declared, text):
    assert decode(payload, declared) == text


def test_the_header_goes_before_the_page_unless_the_bytes_refute_it():
    head = '<meta charset="koi8-r">'
    assert decode((head + RUSSIAN).encode("cp1251"), "windows-1251") == head + RUSSIAN
    head = '<meta charset="shift_jis">'
    assert decode((head + JAPANESE).encode("cp932"), "utf-8") == head + JAPANESE


def test_a_real_page_with_an_unknown_charset_keeps_its_letters(real_data):
    path = real_data / "crawl" / "broken" / "unknown-charset.warc.gz"
    records = list(read_warc.read(str(path), 0, 1 << 62, True, 10_000_000, Skips()))
    (odd,) = [record for record in records if record.charset == "x-unknown-9"]
    assert decode(odd.payload, odd.charset) == odd.payload.decode("utf-8")
    assert any(ord(letter) > 127 for letter in decode(odd.payload, odd.charset))


@pytest.mark.parametrize("label", ["undefined", "utf-8\0", "\ud800", "idna"])
def test_a_label_that_no_page_can_mean_is_passed_over(label):
    assert decode(TEXT.encode(), label) == TEXT
    assert decode(b"plain", label, html=False) == "plain"


def test_a_template_that_declares_an_undefined_charset():
    page = f'<html><meta charset="undefined">{TEXT}</html>'
    assert decode(page.encode()) == page
    assert decode(b'<meta charset="undefined"> ascii') == '<meta charset="undefined"> ascii'
