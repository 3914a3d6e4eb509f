"""Books: every chapter once, in reading order; what is no readable book says why."""

import pytest

from data_engine import epub
from tests.data_engine import books

ONE, TWO = books.xhtml("<h1>One</h1><p>First words.</p>"), books.xhtml("<h1>Two</h1><p>Later <i>words</i>.</p>")


def test_chapters_come_in_the_order_of_the_spine_not_of_the_zip():
    text, rights = epub.read(books.epub({"b.xhtml": (TWO, ""), "a.xhtml": (ONE, "")}, spine=["a.xhtml", "b.xhtml"]))
    assert [line for line in text.split("\n") if line] == ["One", "First words.", "Two", "Later words."]
    assert rights == ""


def test_navigation_and_what_is_not_linear_are_left_out():
    chapters = {
        "nav.xhtml": (books.xhtml("<nav><a href='one.xhtml'>Contents</a></nav>"), 'properties="nav scripted"'),
        "one.xhtml": (ONE, ""),
        "answers.xhtml": (TWO, ""),
        "unlisted.xhtml": (TWO, ""),
    }
    text, _ = epub.read(books.epub(chapters, spine=["nav.xhtml", "one.xhtml", ("answers.xhtml", 'linear="no"')]))
    assert text.split() == ["One", "First", "words."]


def test_names_with_spaces_other_charsets_and_rights():
    latin = books.xhtml("<p>Grüße</p>", '<meta charset="iso-8859-1"/>').encode("latin-1")
    made = books.epub({"ch 1.xhtml": (latin, "")}, rights="Public domain in the <b>USA</b>.")
    assert epub.read(made) == ("Grüße", "Public domain in the USA.")


def test_blocks_of_text_stay_apart_and_markup_does_not_show():
    body = "<p>A &amp; B</p><p>C<br/>D</p><ul><li>e</li><li>f</li></ul><script>x()</script><style>y</style>"
    text, _ = epub.read(books.epub({"a.xhtml": (books.xhtml(body), "")}))
    assert [line.strip() for line in text.split("\n") if line.strip()] == ["A & B", "C", "D", "• e", "• f"]


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"PK\x03\x04 no zip", "not readable as EPUB"),
        (books.epub({"a.xhtml": (ONE, "")})[:-200], "not readable as EPUB"),
        (books.epub({"a.xhtml": (ONE, "")}, spine=[]), "names no chapter"),
        (books.epub({"a.xhtml": (ONE, "")}).replace(b"META-INF", b"META-OUT"), "container.xml is missing"),
    ],
)
def test_what_is_no_book_says_why(payload, error):
    with pytest.raises(epub.BookError, match=error):
        epub.read(payload)


def test_an_encrypted_chapter_is_refused_and_an_obfuscated_font_is_not():
    entry = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData '
        'xmlns="http://www.w3.org/2001/04/xmlenc#"><CipherData><CipherReference URI="{}"/></CipherData>'
        "</EncryptedData></encryption>"
    )
    chapter = {"a.xhtml": (ONE, "")}
    assert epub.read(books.epub(chapter, more={"META-INF/encryption.xml": entry.format("OEBPS/font.otf")}))[0]
    with pytest.raises(epub.BookError, match=r"OEBPS/text/a.xhtml is encrypted"):
        epub.read(books.epub(chapter, more={"META-INF/encryption.xml": entry.format("OEBPS/text/a.xhtml")}))


def test_a_zip_bomb_stays_small(monkeypatch):
    monkeypatch.setattr(epub, "_MOST_BYTES", 100_000)
    with pytest.raises(epub.BookError, match="decompresses to more than"):
        epub.read(books.epub({f"{n}.xhtml": (ONE + " " * 40_000, "") for n in range(4)}))


def test_a_book_reads_no_file_of_this_machine(tmp_path):
    (tmp_path / "secret").write_text("the secret")
    head = f'<!DOCTYPE package [<!ENTITY s SYSTEM "file://{tmp_path}/secret">]>'
    text, rights = epub.read(books.epub({"a.xhtml": (ONE, "")}, rights="mine &s;", opf_head=head))
    assert "First words." in text
    assert "secret" not in rights
