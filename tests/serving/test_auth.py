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
    def write(content, name="keys"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def ring(*keys):
    return auth.KeyRing([auth.named(key) for key in keys])


def test_a_key_is_kept_as_plain_sha256():
    assert auth.digest(KEY) == hashlib.sha256(KEY.encode()).hexdigest()


def test_fresh_keys_differ_and_pass_the_rules_for_keys_of_a_file(keys_file):
    fresh = [auth.new_key() for _ in range(100)]
    assert len(set(fresh)) == 100
    assert [key.digest for key in auth.read_keys(keys_file("\n".join(fresh)))] == [auth.digest(key) for key in fresh]


def test_comments_blank_lines_byte_order_mark_and_windows_line_ends_are_no_part_of_a_key(keys_file):
    found = auth.read_keys(keys_file(f"\ufeff# mine\r\n\r\n  {KEY}  \r\n#{OTHER}\r\n{OTHER}"))
    assert found == [auth.named(KEY), auth.named(OTHER)]


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
    assert ring(KEY, OTHER).find(header)


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Token {KEY}", f"Bearer{KEY}", f"Bearer: {KEY}"),
        *(f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer {KEY.upper()}", f"Bearer {KEY} {KEY}", f"Bearer\t{KEY}"),
        f"Bearer {auth.digest(KEY)}",  # a stolen digest is no key
    ],
)
def test_anything_but_a_bearer_key_is_refused(header):
    assert ring(KEY).find(header) is None


@given(HEADER_TEXT)
def test_no_header_opens_by_accident_and_none_raises(header):
    assert ring(KEY).find(header) is None


def test_no_keys_open_for_nobody():
    assert auth.KeyRing([]).find("Bearer ") is None


def test_every_digest_is_compared_in_constant_time_even_after_a_match(monkeypatch):
    compared = []

    def counted(left, right):
        compared.append((left, right))
        return hmac_compare(left, right)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", counted)
    keys = ring(KEY, OTHER, "x" * 20)
    for header in (f"Bearer {KEY}", f"Bearer {OTHER}", "Bearer wrong", f"Basic {KEY}", None):
        compared.clear()
        keys.find(header)
        assert len(compared) == 3
        assert all(len(left) == len(right) == 64 for left, right in compared)


# --- digests, names, quotas -----------------------------------------------------------------------------------------

NAMED = f"""
keys:
  - name: alice
    key: {KEY}
    requests_per_minute: 60
    tokens_per_day: 1000
  - name: bob
    key: sha256:{auth.digest(OTHER)}
"""


def test_a_file_may_hold_digests_so_that_a_thief_of_it_has_no_key(keys_file):
    kept = f"sha256:{auth.digest(KEY)}"
    file = keys_file(f"{kept}\n")
    assert auth.read_keys(file) == [auth.named(KEY)]
    keys = auth.KeyRing([], file)
    assert keys.find(f"Bearer {KEY}") == auth.named(KEY)
    assert keys.find(f"Bearer {kept}") is None
    assert keys.find(f"Bearer {auth.digest(KEY)}") is None


def test_a_yaml_file_names_its_keys_and_their_quotas(keys_file):
    alice, bob = auth.read_keys(keys_file(NAMED, "keys.yaml"))
    assert (alice.name, alice.digest) == ("alice", auth.digest(KEY))
    assert (alice.requests_per_minute, alice.tokens_per_minute, alice.tokens_per_day) == (60, None, 1000)
    assert (bob.name, bob.digest, bob.tokens_per_day) == ("bob", auth.digest(OTHER), None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "keys: Field required"),
        ("keys: []", "at least 1 item"),
        ("- a", "valid dictionary"),
        ("keys: [", "not readable as YAML, line"),
        (NAMED + f"  - name: bob\n    key: {KEY}x", "two keys have the same name"),
        (NAMED + f"  - name: carol\n    key: {KEY}", "two names have the same key"),
        (NAMED.replace("bob", "b b"), "name: String should match"),
        (NAMED.replace("requests_per_minute", "requests_per_hour"), "keys.0.requests_per_hour: Extra inputs"),
        (NAMED.replace("60", "0"), "keys.0.requests_per_minute: Input should be greater"),
        (NAMED.replace("60", "many"), "keys.0.requests_per_minute: Input should be a valid integer"),
        (NAMED.replace(auth.digest(OTHER), "abc"), "64 hexadecimal digits"),
        (NAMED.replace(KEY, "short"), "shorter than 20"),
        (NAMED.replace(KEY, "[1]"), "keys.0.key: Input should be a valid string"),
    ],
)
def test_a_wrong_yaml_file_is_refused_in_one_line_without_its_keys(keys_file, content, reason):
    with pytest.raises(UserError, match=reason) as raised:
        auth.read_keys(keys_file(content, "keys.yaml"))
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value) and OTHER not in str(raised.value)


# --- rotation -------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])
    return now


def test_a_file_that_changed_is_read_again_and_fixed_keys_stay(keys_file, clock):
    file = keys_file(KEY)
    keys = auth.KeyRing([auth.named("y" * 20)], file)
    keys_file(OTHER)
    assert keys.find(f"Bearer {KEY}") is not None, "one look in a second, however many knock"
    clock[0] += 2
    assert keys.find(f"Bearer {KEY}") is None
    assert keys.find(f"Bearer {OTHER}") is not None
    assert keys.find("Bearer " + "y" * 20) is not None


def test_a_bad_or_missing_file_keeps_the_old_keys_and_says_so_once_without_them(keys_file, clock, caplog):
    file = keys_file(KEY)
    keys = auth.KeyRing([], file)
    keys_file("secret")
    for _ in range(3):
        clock[0] += 2
        assert keys.find(f"Bearer {KEY}") is not None
    assert caplog.text.count("the keys stay as they were") == 1
    assert "secret" not in caplog.text
    file.unlink()
    clock[0] += 2
    assert keys.find(f"Bearer {KEY}") is not None
    keys_file(OTHER)
    clock[0] += 2
    assert keys.find(f"Bearer {OTHER}") is not None


def test_an_unchanged_file_is_not_read_again(keys_file, clock, monkeypatch):
    keys = auth.KeyRing([], keys_file(KEY))
    monkeypatch.setattr(auth, "read_keys", lambda _: pytest.fail("read again"))
    clock[0] += 2
    assert keys.find(f"Bearer {KEY}") is not None


def test_no_key_of_a_file_has_the_name_of_the_endpoint_s_own(keys_file):
    path = keys_file(f"keys: [{{name: raymill, key: {KEY}}}]", "keys.yaml")
    with pytest.raises(UserError, match="the endpoint's own key; take another"):
        auth.read_keys(path)
