"""WARC reading: every good record once, however the file is cut; every bad one reported."""

import gzip
import io
import random
import re

import brotli
import pytest

from core import storage
from data_engine import read_warc
from data_engine.records import Damage, Record, Skips
from tests.data_engine import corpora

PLAIN = b"<!doctype html><html><p>x</p>" * 20
HTML = [("Content-Type", "text/html")]


def read(path, start=0, end=1 << 62, compressed=True, max_bytes=10_000_000, skips=None):
    return list(read_warc.read(str(path), start, end, compressed, max_bytes, skips or Skips()))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(corpora.warc([(f"http://h/{n}", "200 OK", HTML, b"x" * n * 300) for n in range(12)]))
    return path


@pytest.mark.parametrize("step", [1, 37, 400, 1000, 100_000])
def test_every_cut_reads_every_record_once(file, step):
    size = file.stat().st_size
    whole = read(file)
    parts = [r for start in range(0, size, step) for r in read(file, start, min(start + step, size))]
    assert parts == whole
    assert [record.url for record in whole] == [f"http://h/{n}" for n in range(12)]


def test_one_gzip_stream_over_all_records_is_read_too(tmp_path):
    path = tmp_path / "whole.warc.gz"
    path.write_bytes(
        gzip.compress(corpora.warc([(f"http://h/{n}", "200 OK", HTML, b"y") for n in range(5)], gzip=False))
    )
    assert [record.url for record in read(path)] == [f"http://h/{n}" for n in range(5)]


def test_uncompressed_files_are_read_and_say_where_a_record_lies(tmp_path):
    content = corpora.warc([(f"http://h/{n}", "200 OK", HTML, b"y" * 50) for n in range(3)], gzip=False)
    path = tmp_path / "a.warc"
    path.write_bytes(content)
    records = read(path, compressed=False)
    assert all(content[record.offset :].startswith(b"WARC/1.") for record in records)
    assert len({record.offset for record in records}) == 3
    path.write_bytes(content[:-60])
    assert [type(r) for r in read(path, compressed=False)] == [Record, Record, Damage]


PAGES = [(f"http://h/{n}", "200 OK", HTML, b"y" * 50 + b"%d\n\nlast line" % n) for n in range(12)]


def with_wrong_length(victim, wrong, digests=True):
    """An uncompressed file whose record `victim` states a Content-Length that is too large or too small."""
    content = corpora.warc(PAGES, gzip=False)
    if not digests:
        content = re.sub(rb"WARC-(Block|Payload)-Digest: [^\r]*\r\n", b"", content)
    start = [found.start() for found in re.finditer(rb"WARC/1\.", content)][victim]
    length = re.compile(rb"(?<=\r\nContent-Length: )\d+").search(content, start)
    return content[: length.start()] + b"%d" % (int(length[0]) + wrong) + content[length.end() :], start


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("wrong", [-60, -20, -1, 20, 200, 100_000])
@pytest.mark.parametrize("victim", [0, 3, 10, 11])
def test_a_wrong_length_costs_its_record_and_what_it_reaches_into(tmp_path, victim, wrong, digests):
    content, start = with_wrong_length(victim, wrong, digests)
    (tmp_path / "a.warc").write_bytes(content)
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(content))
    plain = read(tmp_path / "a.warc", compressed=False)
    (damage,) = [r for r in plain if isinstance(r, Damage)]
    assert (damage.offset, damage.url) == (start, f"http://h/{victim}")
    assert [r.url for r in plain if isinstance(r, Record)] == [f"http://h/{n}" for n in range(12) if n != victim]
    packed = read(tmp_path / "a.warc.gz")  # a stream goes one way: what the length reaches into is lost too
    lost = {-20: 1, -60: 1, -1: 1, 20: 2, 200: 2, 100_000: 12}[wrong]
    good = [f"http://h/{n}" for n in range(12) if n not in range(victim, victim + lost)]
    assert [r.url for r in packed if isinstance(r, Record)] == good
    assert [r.url for r in packed if isinstance(r, Damage)] == [f"http://h/{victim}"]


def test_bytes_between_whole_records_are_told_and_cost_none(tmp_path):
    content = corpora.warc(PAGES, gzip=False)
    starts = [found.start() for found in re.finditer(rb"WARC/1\.", content)]
    stray = b"WARC/ no record\n" + b"\xff" * 200_000 + b"\nWARC/1.0 without a blank line before it\n\n"
    path = tmp_path / "a.warc"
    path.write_bytes(stray + content[: starts[5]] + stray + content[starts[5] :] + b"rest")
    found = read(path, compressed=False)
    assert [r.url for r in found if isinstance(r, Record)] == [page[0] for page in PAGES]
    damaged = [r for r in found if isinstance(r, Damage)]
    assert [r.offset for r in damaged] == [0, len(stray) + starts[5], 2 * len(stray) + len(content)]
    assert f"{len(stray):,} bytes" in damaged[1].error


@pytest.mark.parametrize("content", [b"<html>404</html>", b"", corpora.warc(PAGES[:1], gzip=False)[:30]])
def test_an_uncompressed_file_that_holds_no_record_is_named(tmp_path, content):
    (tmp_path / "a.warc").write_bytes(content)
    (damage,) = read(tmp_path / "a.warc", compressed=False)
    assert damage.offset == 0


def test_a_name_without_gz_does_not_hide_gzip(file):
    assert [r.url for r in read(file, compressed=False)] == [f"http://h/{n}" for n in range(12)]


@pytest.mark.parametrize("header", [b"Content-Length", b"WARC-Target-URI", b"WARC-Type"])
@pytest.mark.parametrize("value", [None, b"", b"x"])
def test_a_record_whose_headers_are_wrong_costs_itself(tmp_path, header, value):
    content = corpora.warc(PAGES[:3], gzip=False)
    start = content.index(b"WARC/1.", 1)
    line = re.compile(rb"\r\n" + header + rb": [^\r]*").search(content, start)
    put = b"" if value is None else b"\r\n%s: %s" % (header, value)
    (tmp_path / "a.warc").write_bytes(content[: line.start()] + put + content[line.end() :])
    urls = [r.url for r in read(tmp_path / "a.warc", compressed=False) if isinstance(r, Record)]
    assert [url for url in urls if url != "http://h/1"] == ["http://h/0", "http://h/2"]


@pytest.mark.parametrize("victim", [0, 5, 11])
def test_a_damaged_member_costs_itself_alone(file, victim):
    content = bytearray(file.read_bytes())
    starts = [*corpora.members(bytes(content)), len(content)]
    middle = (starts[victim] + starts[victim + 1]) // 2
    for at in range(middle, middle + 8):
        content[at] ^= 0xFF
    file.write_bytes(bytes(content))
    found = read(file)
    good = [r.url for r in found if isinstance(r, Record)]
    bad = [r for r in found if isinstance(r, Damage)]
    assert good == [f"http://h/{n}" for n in range(12) if n != victim]
    assert [r.offset for r in bad] == [starts[victim]]


def in_parts(path, step):
    size = path.stat().st_size
    return [r for start in range(0, max(size, 1), step) for r in read(path, start, min(start + step, size))]


@pytest.mark.parametrize("step", [1, 100, 1000, 1 << 20])
@pytest.mark.parametrize("length", [1, 4, 10, 21, 29])
def test_garbage_between_members_is_stepped_over_and_told_once(file, step, length):
    content = file.read_bytes()
    at = corpora.members(content)[4]
    file.write_bytes(content[:at] + b"\x1f\x8b\x08 garbage that is no member"[:length] + content[at:])
    found = in_parts(file, step)
    assert [r.url for r in found if isinstance(r, Record)] == [f"http://h/{n}" for n in range(12)]
    (damage,) = [r for r in found if isinstance(r, Damage)]
    assert damage.offset == at
    assert damage.error == f"{length} bytes hold no WARC record in gzip; fetch the file again"


@pytest.mark.parametrize("step", [100, 1000, 1 << 20])
@pytest.mark.parametrize("at", [0, 1, 2, 3, 12, 14])
def test_a_member_that_is_not_known_as_one_is_no_silent_loss(file, at, step):
    """A flipped byte in the magic, the flags, or where the compressed data begin."""
    content = bytearray(file.read_bytes())
    starts = corpora.members(bytes(content))
    content[starts[5] + at] ^= 0xE0
    file.write_bytes(bytes(content))
    found = in_parts(file, step)
    assert [r.url for r in found if isinstance(r, Record)] == [f"http://h/{n}" for n in range(12) if n != 5]
    (damage,) = [r for r in found if isinstance(r, Damage)]
    assert damage.offset == starts[5]
    assert f"{starts[6] - starts[5]:,} bytes" in damage.error


def test_a_zeroed_block_over_two_members_tells_how_much_is_lost(tmp_path):
    path = tmp_path / "a.warc.gz"
    pages = [(f"http://h/{n}", "200 OK", HTML, random.Random(n).randbytes(3000)) for n in range(8)]
    content = bytearray(corpora.warc(pages))
    starts = corpora.members(bytes(content))
    content[4096:8192] = bytes(4096)
    path.write_bytes(bytes(content))
    first, damage, *others = read(path)
    assert [r.url for r in (first, *others)] == [f"http://h/{n}" for n in (0, 3, 4, 5, 6, 7)]
    assert damage.offset == starts[1]
    assert damage.error.endswith(f"of the {starts[3] - starts[1]:,} bytes before the next record; fetch the file again")


def test_records_of_one_stream_before_its_damage_are_read_and_the_rest_is_told_once(tmp_path):
    """The second record is itself too long: it has its entry, and the damage behind it its own."""
    path = tmp_path / "a.warc.gz"
    pages = [(f"http://h/{n}", "200 OK", HTML, b"y" * (600_000 if n else 300_000)) for n in range(3)]
    stream = bytearray(gzip.compress(corpora.warc(pages, gzip=False)))
    stream[-6] ^= 0xFF
    path.write_bytes(bytes(stream))
    first, too_long, lost = read(path, max_bytes=310_000)
    assert (first.url, too_long.url) == ("http://h/0", "http://h/1")
    assert "longer than" in too_long.error
    assert "incorrect data check; nothing more is read" in lost.error
    path.write_bytes(gzip.compress(corpora.warc(pages[:2], gzip=False))[:-9])
    first, lost = read(path)
    assert (first.url, type(lost)) == ("http://h/0", Damage)


@pytest.mark.parametrize("step", [1, 100, 1 << 20])
@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "the file is empty"),
        (b"<html>403</html>", "16 bytes hold no WARC record in gzip"),
        (corpora.warc([("http://h/", "200 OK", HTML, b"x")])[:16], "16 bytes hold no WARC record in gzip"),
    ],
)
def test_a_file_that_holds_no_record_is_named(tmp_path, content, error, step):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(content)
    (damage,) = in_parts(path, step)
    assert (damage.offset, damage.error) == (0, f"{error}; fetch the file again")


def test_a_payload_beyond_the_limit_is_reported_not_read(file):
    found = read(file, max_bytes=1000)
    assert sum(isinstance(r, Damage) for r in found) == 8
    assert all("max_document_bytes (1,000)" in r.error for r in found if isinstance(r, Damage))


def test_records_without_a_document_are_counted_by_kind(tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(
        corpora.warc(
            [
                ("http://h/1", "301 Moved Permanently", HTML, b""),
                ("http://h/robots.txt", "200 OK", [("Content-Type", "text/plain")], b"User-agent: *"),
                ("http://h/x.pdf", "200 OK", [("Content-Type", "application/pdf")], b"%PDF"),
                ("http://h/docs/robots.txt", "200 OK", [("Content-Type", "text/plain")], b"a page about robots"),
            ]
        )
    )
    skips = Skips()
    assert len(read(path, skips=skips)) == 1
    assert skips.counts == {"status 301": 1, "robots.txt": 1, "type application/pdf": 1}


def test_real_crawls_give_the_documents_their_readme_counts(real_data):
    expected = {"articles.warc.gz": 181, "cc-sample-0.warc.gz": 22, "cc-sample-1.warc.gz": 15, "whirlwind.warc.gz": 1}
    expected |= {"whirlwind.warc.wet.gz": 1, "whirlwind.warc.wat.gz": 0}
    for name, documents in expected.items():
        found = read(real_data / "crawl" / name)
        assert (len(found), sum(isinstance(r, Record) for r in found)) == (documents, documents), name
    plain = read(real_data / "crawl" / "whirlwind.warc.wet", compressed=False)
    assert len(plain) == 1
    assert plain[0].media == "text"


@pytest.mark.parametrize("size", [4, 200_000])
def test_a_body_in_brotli_is_read_as_what_it_says(tmp_path, size):
    body = bytes(range(97, 123)) * (size // 26 + 1)
    packed = [*HTML, ("Content-Encoding", "br")]
    pages = [("http://h/br", "200 OK", packed, brotli.compress(body)), ("http://h/no", "200 OK", packed, PLAIN)]
    (tmp_path / "a.warc.gz").write_bytes(corpora.warc(pages))
    first, second = read(tmp_path / "a.warc.gz")
    assert first.payload == body
    assert second.payload == PLAIN, "what is not brotli stays as it is"


def test_records_that_claim_more_than_the_file_has_cost_themselves_without_being_read(tmp_path, monkeypatch):
    """To read each of them to the end of the file, and what follows again, takes quadratic time."""
    content = re.sub(rb"WARC-(Block|Payload)-Digest: [^\r]*\r\n", b"", corpora.warc(PAGES, gzip=False))
    heads = re.compile(rb"(?<=\r\nContent-Length: )\d+(?=\r\n\r\nHTTP)")
    path = tmp_path / "a.warc"
    path.write_bytes(heads.sub(b"99999999", content))
    opened, read_bytes = storage.open_read, []

    class Counting(io.FileIO):
        def readinto(self, buffer):
            read_bytes.append(super().readinto(buffer))
            return read_bytes[-1]

    monkeypatch.setattr(storage, "open_read", lambda path: io.BufferedReader(Counting(path), 256))
    found = read(path, compressed=False)
    monkeypatch.setattr(storage, "open_read", opened)
    assert [r.url for r in found] == [page[0] for page in PAGES]
    assert all("before its Content-Length" in r.error for r in found)
    assert sum(read_bytes) < 4 * len(content)


def test_zeros_at_the_end_of_an_uncompressed_file_cost_no_record(tmp_path):
    content = re.sub(rb"WARC-(Block|Payload)-Digest: [^\r]*\r\n", b"", corpora.warc(PAGES, gzip=False))
    (tmp_path / "a.warc").write_bytes(content + b"\0" * 100_000)
    assert [r.url for r in read(tmp_path / "a.warc", compressed=False)] == [page[0] for page in PAGES]
