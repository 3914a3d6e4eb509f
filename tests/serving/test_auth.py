import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from serving import auth

KEY = "rml-0123456789abcdefghij"
OTHER = "rml-jihgfedcba9876543210"
HEADER_TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF))


@pytest.fixture
def keys_file(tmp_path):
    def write(content):
        path = tmp_path / "keys"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_key_is_kept_as_plain_sha256():
    assert auth.digest(KEY) == hashlib.sha256(KEY.encode()).hexdigest()


def test_fresh_keys_differ_and_pass_the_rules_for_keys_of_a_file(keys_file):
    fresh = [auth.new_key() for _ in range(100)]
    assert len(set(fresh)) == 100
    assert auth.read_keys(keys_file("\n".join(fresh))) == fresh


def test_comments_blank_lines_byte_order_mark_and_windows_line_ends_are_no_part_of_a_key(keys_file):
    assert auth.read_keys(keys_file(f"\ufeff# mine\r\n\r\n  {KEY}  \r\n#{OTHER}\r\n{OTHER}")) == [KEY, OTHER]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no key"),
        ("\n# only a comment\n", "holds no key"),
        (f"{KEY}\nsecret\n", "shorter than 20"),
        (f"{KEY}é", "printable ASCII"),
        (f"{KEY} {OTHER}", "printable ASCII"),
        (f"{KEY}\x07", "printable ASCII"),
        (b"\xff\xfe" + KEY.encode("utf-16-le"), "not readable as text"),
    ],
)
def test_a_keys_file_that_would_open_the_door_to_nobody_or_everybody_is_refused(keys_file, content, reason):
    path = keys_file(content)
    with pytest.raises(UserError, match=reason) as raised:
        auth.read_keys(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value) and "secret" not in str(raised.value)


def test_missing_keys_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="no such file"):
            auth.read_keys(path)


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY}  ", f"Bearer {OTHER}"])
def test_each_key_opens_whatever_the_case_of_the_scheme(header):
    assert auth.KeyRing([auth.digest(KEY), auth.digest(OTHER)]).accepts(header)


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Token {KEY}", f"Bearer{KEY}", f"Bearer: {KEY}"),
        *(f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer {KEY.upper()}", f"Bearer {KEY} {KEY}", f"Bearer\t{KEY}"),
        f"Bearer {auth.digest(KEY)}",  # a stolen digest is no key
    ],
)
def test_anything_but_a_bearer_key_is_refused(header):
    assert not auth.KeyRing([auth.digest(KEY)]).accepts(header)


@given(HEADER_TEXT)
def test_no_header_opens_by_accident_and_none_raises(header):
    assert not auth.KeyRing([auth.digest(KEY)]).accepts(header)


def test_no_keys_open_for_nobody():
    assert not auth.KeyRing([]).accepts("Bearer ")


def test_every_digest_is_compared_in_constant_time_even_after_a_match(monkeypatch):
    compared = []

    def counted(left, right):
        compared.append((left, right))
        return hmac_compare(left, right)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", counted)
    ring = auth.KeyRing([auth.digest(key) for key in (KEY, OTHER, "x" * 20)])
    for header in (f"Bearer {KEY}", f"Bearer {OTHER}", "Bearer wrong", f"Basic {KEY}", None):
        compared.clear()
        ring.accepts(header)
        assert len(compared) == 3
        assert all(len(left) == len(right) == 64 for left, right in compared)
