"""Bearer keys: shown once, kept as SHA-256, compared in constant time."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path

from core.errors import UserError

_SHORTEST_KEY = 20


def new_key() -> str:
    """A fresh key with 256 random bits."""
    return f"rml-{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    """What is kept of a key: SHA-256, hex. Keys are random, so a slow password hash would protect nothing more."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: str | Path) -> list[str]:
    """Keys of a file, one on a line; empty lines and `#` comments are skipped.

    Raises UserError when there is no file, no key in it, or a key that no client could send or that can be guessed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"keys_file: {path}: no such file; write one key on each line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"keys_file: {path}: not readable as text: {error}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"keys_file: {path}: holds no key; write one key on each line")
    if any(len(key) < _SHORTEST_KEY for key in keys):
        raise UserError(f"keys_file: {path}: a key is shorter than {_SHORTEST_KEY} characters and could be guessed")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UserError(f"keys_file: {path}: a key holds more than printable ASCII; an HTTP header cannot carry it")
    return keys


class KeyRing:
    """The keys that open the door, as digests."""

    def __init__(self, digests: Sequence[str]) -> None:
        self.digests = list(digests)

    def accepts(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries one of the keys.

        Every digest is compared, each in constant time: the answer's delay tells nothing about which one matched.
        """
        scheme, _, key = (authorization or "").partition(" ")
        given = digest(key.strip())
        found = False
        for known in self.digests:
            found |= hmac.compare_digest(given, known)
        return found and scheme.lower() == "bearer"
