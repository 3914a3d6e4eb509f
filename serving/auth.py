"""Bearer keys: shown once, kept as SHA-256, compared in constant time; a file of them may change at any time."""

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from core.config import Config
from core.errors import UserError

log = logging.getLogger("ray.serve")
OWN = "raymill"
"""Name of the key that an endpoint makes for itself: two keys of one name would share, and forget, their quotas."""
_SHORTEST_KEY = 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LOOK_AGAIN_SECONDS = 1.0
_Limit = Annotated[int | None, Field(ge=1)]


class Key(Config):
    """One key, as the door knows it: who it belongs to and what that one may use."""

    name: str = Field(pattern=r"^[A-Za-z0-9._@-]{1,64}$", description="who it belongs to, in metrics and the audit log")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, hex")
    requests_per_minute: _Limit = Field(None, description="None: no limit")
    tokens_per_minute: _Limit = Field(None, description="prompt and answer together; None: no limit")
    tokens_per_day: _Limit = Field(None, description="prompt and answer together; None: no limit")
    operator: bool = Field(False, description="reads in /metrics what every key used; others read of themselves alone")


class _KeyOfFile(Config):
    name: str
    key: str = Field(description="the key, or sha256:... of it")
    requests_per_minute: _Limit = None
    tokens_per_minute: _Limit = None
    tokens_per_day: _Limit = None
    operator: bool = False

    def known(self) -> Key:
        return Key.model_validate(self.model_dump(exclude={"key"}) | {"digest": _kept(self.key)})


class _KeysFile(Config):
    keys: list[_KeyOfFile] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> "_KeysFile":
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("two keys have the same name")
        if OWN in names:
            raise ValueError(f"the name {OWN!r} is that of the endpoint's own key; take another")
        return self


def new_key() -> str:
    """A fresh key with 256 random bits."""
    return f"rml-{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    """What is kept of a key: SHA-256, hex. Keys are random, so a slow password hash would protect nothing more."""
    return hashlib.sha256(key.encode()).hexdigest()


def named(key: str) -> Key:
    """A key without a name of its own, nor limits: it is called after its digest."""
    kept = _kept(key)
    return Key(name=f"key-{kept[:8]}", digest=kept)


def _kept(key: str) -> str:
    """Raises ValueError for a key that no client could send or that can be guessed; never with the key in it."""
    if (hashed := _DIGEST.fullmatch(key)) is not None:
        return hashed[1]
    if key.startswith("sha256:"):
        raise ValueError("a digest is not 64 hexadecimal digits after 'sha256:'")
    if len(key) < _SHORTEST_KEY:
        raise ValueError(f"a key is shorter than {_SHORTEST_KEY} characters and could be guessed")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("a key holds more than printable ASCII; an HTTP header cannot carry it")
    return digest(key)


def read_keys(path: str | Path) -> list[Key]:
    """Keys of a file.

    One on a line, empty lines and `#` comments skipped; or, named `.yaml`, a list `keys` of `name`, `key` and quotas.
    Either holds keys or, in their place, `sha256:` and the digest. Raises UserError when there is no file, no key in
    it, or a key that no client could send or that can be guessed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"keys_file: {path}: no such file; write one key on each line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"keys_file: {path}: not readable as text: {error}") from None
    try:
        keys = _read_yaml(text) if path.suffix in (".yaml", ".yml") else _read_lines(text)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise UserError(f"keys_file: {path}: {where + ': ' if where else ''}{_reason(wrong['msg'])}") from None
    except ValueError as error:
        raise UserError(f"keys_file: {path}: {error}") from None
    return keys


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ").replace("\n", " ")


def _read_lines(text: str) -> list[Key]:
    lines = [line.strip() for line in text.splitlines()]
    keys = [named(line) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError("holds no key; write one key on each line")
    return list({key.digest: key for key in keys}.values())


def _read_yaml(text: str) -> list[Key]:
    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # the error's own words would quote the line, a key among them
        raise ValueError(f"not readable as YAML{f', line {mark.line + 1}' if mark else ''}") from None
    keys = [key.known() for key in _KeysFile.model_validate(data if data is not None else {}).keys]
    if len({key.digest for key in keys}) < len(keys):
        raise ValueError("two names have the same key")
    return keys


class KeyRing:
    """The keys that open the door."""

    def __init__(self, keys: Sequence[Key], file: str | Path | None = None) -> None:
        """`keys` hold as long as the door is open; those of `file` are read now, and again when it has changed."""
        self._fixed = list(keys)
        self._file = Path(file) if file is not None else None
        self.keys = self._fixed
        self._version: tuple[int, int, int] | None = None
        self._looked = -_LOOK_AGAIN_SECONDS
        self._refresh()

    def find(self, authorization: str | None) -> Key | None:
        """The key that an `Authorization` header carries; None when it carries none of ours.

        Every digest is compared, each in constant time: the answer's delay tells nothing about which one matched.
        """
        self._refresh()
        scheme, _, key = (authorization or "").partition(" ")
        given = digest(key.strip())
        found: Key | None = None
        for known in self.keys:
            if hmac.compare_digest(given, known.digest):
                found = known
        return found if scheme.lower() == "bearer" else None

    def _refresh(self) -> None:
        """At most one look at the file in a second, whoever knocks. What cannot be read changes nothing."""
        if self._file is None or time.monotonic() - self._looked < _LOOK_AGAIN_SECONDS:
            return
        self._looked = time.monotonic()
        version = self._look()
        if version == self._version and version is not None:
            return
        self._version = version
        try:
            self.keys = self._fixed + read_keys(self._file)
        except UserError as error:
            log.error("the keys stay as they were: %s", error)
        else:
            log.info("the keys were read again: %d", len(self.keys))

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._file) if self._file is not None else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else None
