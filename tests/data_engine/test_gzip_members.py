"""Members of a gzip file: found from anywhere, each exactly once whatever the split, and past damage."""

import gzip
import io
import random
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.gzip_members import _READ, DamagedMemberError, Gap, Member, find_member, members

LEAD = b"WARC/1."
contents = st.lists(st.binary(max_size=200) | st.just(b"\x1f\x8b\x08" * 20), min_size=1, max_size=8)
levels = st.integers(0, 9)  # level 0 stores: magic bytes of the content stand in the file as they are


def pack(bodies, level=6):
    """The file and where each member begins."""
    packed = [gzip.compress(LEAD + body, level) for body in bodies]
    starts = [sum(map(len, packed[:n])) for n in range(len(packed))]
    return b"".join(packed), starts


def read_all(data, start, end):
    """(offset, content) of members, gaps as they are."""
    found = members(io.BytesIO(data), start, end, LEAD)
    return [one if isinstance(one, Gap) else (one.offset, one.read()) for one in found]


def in_parts(data, size):
    """The same of a file that is cut into parts of `size` bytes."""
    return [one for start in range(0, max(len(data), 1), size) for one in read_all(data, start, start + size)]


@given(contents, levels, st.lists(st.integers(0, 3000), max_size=4))
def test_every_member_is_read_once_whatever_the_splits(bodies, level, cuts):
    data, starts = pack(bodies, level)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found = [read for start, end in pairwise(edges) for read in read_all(data, start, end)]
    assert found == [(start, LEAD + body) for start, body in zip(starts, bodies, strict=True)]


@given(contents, st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_reading_in_pieces_equals_reading_whole(bodies, sizes):
    data, starts = pack(bodies)
    member = Member(io.BytesIO(data), starts[-1])
    parts = [member.read(size) for size in sizes]
    assert b"".join([*parts, member.read()]) == LEAD + bodies[-1]
    assert member.read() == b""
    assert member.end == len(data)


@given(contents, st.data())
def test_members_that_the_caller_leaves_unread_do_not_hide_the_next(bodies, data):
    packed, starts = pack(bodies)
    seen = []
    for member in members(io.BytesIO(packed), 0, len(packed), LEAD):
        seen.append(member.offset)
        if data.draw(st.booleans()):
            member.drain()
    assert seen == starts


@given(contents, contents, st.data())
def test_members_around_a_damaged_one_are_read(before, after, data):
    packed_before, _ = pack(before)
    body = random.Random(0).randbytes(400)
    damaged = bytearray(gzip.compress(LEAD + body))
    at = data.draw(st.integers(60, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    packed_after, _ = pack(after)
    whole = packed_before + bytes(damaged) + packed_after
    read, lost = [], 0
    for member in members(io.BytesIO(whole), 0, len(whole), LEAD):
        try:
            read.append(member.read())
        except DamagedMemberError:
            lost += member.give_up()
    assert lost == len(damaged)
    assert read == [LEAD + text for text in [*before, *after]]


STRAY = b"\x1f\x8b\x08 garbage that is no member"


@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(min_size=1, max_size=90), st.data())
def test_each_gap_is_told_once_whatever_the_size_of_the_parts(bodies, stray, data):
    """Before all members, between two, behind the last; a gap may be longer than a part."""
    packed = [gzip.compress(LEAD + body) for body in bodies]
    place = data.draw(st.integers(0, len(packed)))
    whole = b"".join([*packed[:place], STRAY + stray + b"!", *packed[place:]])
    gap = Gap(sum(map(len, packed[:place])), len(STRAY + stray) + 1)
    for size in (1, 7, 40, data.draw(st.integers(2, 300)), 1000):
        found = in_parts(whole, size)
        assert [one for one in found if isinstance(one, Gap)] == [gap]
        assert [one[1] for one in found if not isinstance(one, Gap)] == [LEAD + body for body in bodies]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_holds_no_member_is_one_gap(size):
    assert in_parts(b"", size) == [Gap(0, 0)]
    assert in_parts(b"<html>404</html>", size) == [Gap(0, 16)]
    assert in_parts(b"\0" * 50, size) == [Gap(0, 50)]
    assert in_parts(gzip.compress(b"no WARC"), size) == [Gap(0, len(gzip.compress(b"no WARC")))]


def test_zeros_at_the_end_of_a_file_are_padding_and_elsewhere_a_gap():
    one = gzip.compress(LEAD)
    padding = b"\0" * (_READ + 5)
    assert in_parts(one + padding, 1 << 20) == [(0, LEAD)]
    end = len(one + padding)
    assert in_parts(one + padding + one, 1 << 20) == [(0, LEAD), Gap(len(one), len(padding)), (end, LEAD)]
    assert in_parts(one + padding + b"x", 1 << 20) == [(0, LEAD), Gap(len(one), len(padding) + 1)]


@pytest.mark.parametrize("length", [1, 12, 200])
def test_a_file_that_ends_within_a_member_says_so(length):
    data, starts = pack([b"whole", random.Random(1).randbytes(500)])
    found = members(io.BytesIO(data[: starts[1] + 100 + length]), 0, len(data), LEAD)
    assert next(found).read() == LEAD + b"whole"
    with pytest.raises(DamagedMemberError, match="the file ends within"):
        next(found).read()


@pytest.mark.parametrize("shift", range(-4, 3))
def test_a_member_at_the_edge_of_a_read_or_of_the_split_is_found(shift):
    """Its magic bytes lie across the boundary of two reads, and begin right before the end of the split."""
    offset = _READ + shift
    data = b"\0" * offset + gzip.compress(LEAD)
    file = io.BytesIO(data)
    assert find_member(file, 0, len(data), LEAD) == offset
    assert find_member(file, 0, offset + 1, LEAD) == offset
    assert find_member(file, 0, offset, LEAD) is None
    assert find_member(file, offset, offset + 1, LEAD) == offset
    assert find_member(file, offset + 1, len(data), LEAD) is None


def test_a_large_member_is_handed_out_in_pieces():
    body = zlib.compress(random.Random(2).randbytes(300_000)) + b"\0" * 5_000_000
    data = gzip.compress(LEAD + body)
    member = Member(io.BytesIO(data), 0)
    pieces = []
    while piece := member.read(70_000):
        assert len(piece) <= 70_000
        assert len(member._ready) <= 4 * _READ
        pieces.append(piece)
    assert b"".join(pieces) == LEAD + body


def test_line_ends_and_members_of_nothing_are_no_gap():
    one, nothing = gzip.compress(LEAD, mtime=0), gzip.compress(b"", mtime=0)
    for between in (nothing, b"\r\n", nothing + b"\n" + nothing):
        found = in_parts(one + between + one + between, 1 << 20)
        assert found == [(0, LEAD), (len(one + between), LEAD)]
    assert in_parts(one + nothing[:-1], 1 << 20) == [(0, LEAD), Gap(len(one), len(nothing) - 1)]
