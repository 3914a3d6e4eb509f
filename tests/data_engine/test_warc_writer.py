"""WARC segments read back by warcio, after rollovers, torn writes and odd headers."""

import gzip
import io
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator
from warcio.checker import Checker

import data_engine.warc_brotli  # noqa: F401  # warcio learns to read brotli
from core.errors import RaymillError
from data_engine.fetch import Answer
from data_engine.warc_writer import WarcSegments

values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
"""As `fetch` has them, a character for each byte."""
headers = st.lists(
    st.tuples(st.sampled_from(["Content-Type", "X-Odd", "Content-Length", "Transfer-Encoding", "Set-Cookie"]), values),
    max_size=5,
)


def answer(body=b"<p>page</p>", url="http://example.org/a?b=c", headers=(("Content-Type", "text/html"),), **more):
    request = [("Host", "example.org"), ("User-Agent", "raymill/0.1")]
    given = {"status": 200, "phrase": "OK", "protocol": "HTTP/1.1", "wire_bytes": len(body), "peer": "127.0.0.1"}
    return Answer(url=url, headers=list(headers), request_headers=request, body=body, **{**given, **more})


def records(path):
    """Every record with its payload; warcio checks the digests."""
    with path.open("rb") as file:
        return [(r, r.content_stream().read()) for r in ArchiveIterator(file, check_digests="raise")]


def valid(path):
    return Checker(SimpleNamespace(inputs=[str(path)], verbose=False)).process_all() == 0


def segments(folder, committed=None, size=10**9):
    return WarcSegments(folder, size, committed or {}, "raymill/0.1")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(max_size=300), headers, values), min_size=1, max_size=4))
@example([(b"", [("Content-Type", ";\x80=0")], "Tr\xe8s bien")])
def test_any_body_and_any_headers_come_back(tmp_path_factory, exchanges):
    folder = tmp_path_factory.mktemp("warc")
    writer = segments(folder)
    places = [
        writer.write(answer(body, f"http://example.org/{n}", had, phrase=phrase))
        for n, (body, had, phrase) in enumerate(exchanges)
    ]
    writer.sync()
    writer.close()
    path = folder / "segment-00000.warc.gz"
    responses = [(r, body) for r, body in records(path) if r.rec_type == "response"]
    assert [body for _, body in responses] == [body for body, *_ in exchanges]
    assert valid(path)
    raw = path.read_bytes()
    for place, (body, had, phrase) in zip(places, exchanges, strict=True):
        member = gzip.decompress(raw[place.offset : place.offset + place.length])
        [record] = list(ArchiveIterator(io.BytesIO(member)))
        assert record.rec_headers.get_header("WARC-Payload-Digest") == place.payload_digest
        assert member.endswith(body + b"\r\n\r\n")
        assert f"HTTP/1.1 200 {phrase}\r\n".encode("latin-1") in member
        assert all(f"{name}: {value}\r\n".encode("latin-1") in member for name, value in had)


def test_headers_describe_the_stored_payload_and_keep_the_transfer_aside(tmp_path):
    given = [("Content-Encoding", "gzip"), ("content-length", "9"), ("X-A", "1"), ("Transfer-Encoding", "chunked")]
    writer = segments(tmp_path)
    writer.write(answer(b"plain", headers=given))
    writer.write(answer(b"\x1b\x03brotli", headers=[("Content-Encoding", "br")], decoded=False))
    writer.close()
    first, second = [r.http_headers.headers for r, _ in records(tmp_path / "segment-00000.warc.gz") if r.http_headers][
        ::2
    ]
    assert first == [
        ("X-Crawler-Content-Encoding", "gzip"),
        ("X-Crawler-content-length", "9"),
        ("X-A", "1"),
        ("X-Crawler-Transfer-Encoding", "chunked"),
        ("Content-Length", "5"),
    ]
    assert second == [("Content-Encoding", "br"), ("Content-Length", "8")]


def test_segments_end_at_their_size_and_each_tells_what_wrote_it(tmp_path):
    writer = segments(tmp_path, size=3000)
    body = bytes(range(256)) * 4
    places = [writer.write(answer(bytes([n]) + body)) for n in range(12)]
    sizes = writer.sync()
    writer.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) > 2
    assert sizes == {name: (tmp_path / name).stat().st_size for name in names}
    assert all(size >= 3000 for name, size in sizes.items() if name != names[-1])
    assert {place.segment for place in places} == set(names)
    for name in names:
        first, info = records(tmp_path / name)[0]
        assert first.rec_type == "warcinfo"
        assert first.rec_headers.get_header("WARC-Filename") == name
        assert b"format: WARC File Format 1.1" in info
        assert b"http-header-user-agent: raymill/0.1" in info


@pytest.mark.parametrize("size", [10**9, 900], ids=["one segment", "many segments"])
def test_what_was_not_committed_is_cut_off_and_writing_goes_on(tmp_path, size):
    writer = segments(tmp_path, size=size)
    for n in range(3):
        writer.write(answer(b"kept %d" % n))
    committed = writer.sync()
    before = {name: (tmp_path / name).read_bytes() for name in committed}
    for n in range(4):
        writer.write(answer(b"lost %d" % n))
    writer._file.flush()  # bytes on disk that no commit knows of
    writer.close()
    (tmp_path / "segment-00009.warc.gz").write_bytes(b"\x1f\x8btorn")
    resumed = segments(tmp_path, committed, size)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    resumed.write(answer(b"after"))
    resumed.sync()
    resumed.close()
    found = [body for path in sorted(tmp_path.iterdir()) for r, body in records(path) if r.rec_type == "response"]
    assert found == [b"kept 0", b"kept 1", b"kept 2", b"after"]
    assert all(valid(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize("left", [None, b"short"], ids=["gone", "short"])
def test_a_segment_that_lost_committed_bytes_is_refused(tmp_path, left):
    if left is not None:
        (tmp_path / "segment-00000.warc.gz").write_bytes(left)
    with pytest.raises(RaymillError, match=r"segment-00000.warc.gz: the frontier knows of more bytes"):
        segments(tmp_path, {"segment-00000.warc.gz": 1000})
