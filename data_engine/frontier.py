"""The frontier of a crawl: every URL seen, what became of it, and what comes next; on disk, so that it survives."""

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

_SCHEMA = """
CREATE TABLE IF NOT EXISTS urls (
    id BLOB PRIMARY KEY,           -- BLAKE2b of the URL: the order within a round
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    depth INTEGER NOT NULL,        -- links from the nearest seed
    hops INTEGER NOT NULL,         -- redirects in a row before this URL
    state TEXT NOT NULL,
    reason TEXT,                   -- why it was filtered or failed
    detail TEXT,
    via TEXT,                      -- a page that links here
    tries INTEGER NOT NULL DEFAULT 0,
    status INTEGER,                -- HTTP status of the last answer
    redirect TEXT,                 -- where it redirects to
    media_type TEXT,
    wire_bytes INTEGER NOT NULL DEFAULT 0,
    payload_bytes INTEGER,
    payload_digest TEXT,           -- as in the WARC record
    segment TEXT, offset INTEGER, length INTEGER,  -- the response record: file, first byte, bytes
    finished_at REAL               -- Unix seconds
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS next_urls ON urls (depth, hops, id) WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS origins (origin TEXT PRIMARY KEY, status INTEGER, robots TEXT NOT NULL, fetched_at REAL);
CREATE TABLE IF NOT EXISTS segments (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
"""

_ADD = """
INSERT INTO urls (id, url, host, depth, hops, state, reason, via) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    depth = excluded.depth, hops = excluded.hops, state = excluded.state, reason = excluded.reason, via = excluded.via
WHERE excluded.state = 'waiting' AND (
    (urls.state = 'waiting' AND (excluded.depth, excluded.hops) < (urls.depth, urls.hops))
    OR (urls.state = 'filtered' AND urls.reason IN ('nofollow', 'max_depth'))
)
"""

_FINISH = """
UPDATE urls SET state = ?, reason = ?, detail = ?, tries = ?, status = ?, redirect = ?, media_type = ?, wire_bytes = ?,
    payload_bytes = ?, payload_digest = ?, segment = ?, offset = ?, length = ?, finished_at = ?
WHERE id = ?
"""


class State(StrEnum):
    """What became of a URL; every URL is in exactly one state."""

    WAITING = "waiting"
    FETCHED = "fetched"
    REDIRECTED = "redirected"
    ROBOTS_DENIED = "robots_denied"
    FILTERED = "filtered"
    TOO_LARGE = "too_large"
    FAILED = "failed"


class Round(NamedTuple):
    """URLs of one distance from the seeds. A round begins when the one before it has ended, so what it holds, and
    which URLs `max_pages` leaves out, does not depend on which server answered first."""

    depth: int
    hops: int


class Entry(NamedTuple):
    """A URL to visit."""

    id: bytes
    url: str
    round: Round


class Found(NamedTuple):
    """A URL just seen; a `refusal` is the reason why it is filtered."""

    url: str
    host: str
    refusal: str | None


class Outcome(NamedTuple):
    """What became of a visit; the fields are the columns of the table."""

    state: State
    reason: str | None = None
    detail: str | None = None
    tries: int = 0
    status: int | None = None
    redirect: str | None = None
    media_type: str | None = None
    wire_bytes: int = 0
    payload_bytes: int | None = None
    payload_digest: str | None = None
    segment: str | None = None
    offset: int | None = None
    length: int | None = None


class Frontier:
    """An SQLite file. Changes are kept by `commit`; after a crash everything since the last one is undone."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    # --- URLs ---------------------------------------------------------------------------------------------------

    def add(self, found: Iterable[Found], position: Round, via: str | None = None) -> None:
        """Take in URLs. One seen before only moves when it is now nearer, or no longer refused."""
        self._db.executemany(
            _ADD,
            [
                (
                    hashlib.blake2b(url.encode(), digest_size=16).digest(),
                    *(url, host, position.depth, position.hops),
                    State.FILTERED if refusal else State.WAITING,
                    *(refusal, via),
                )
                for url, host, refusal in found
            ],
        )

    def next_round(self) -> Round | None:
        """The nearest round with URLs waiting."""
        row = self._db.execute(
            "SELECT depth, hops FROM urls WHERE state = 'waiting' ORDER BY depth, hops LIMIT 1"
        ).fetchone()
        return Round(*row) if row else None

    def take(self, position: Round, limit: int) -> list[Entry]:
        """The next URLs of a round. They stay waiting until `finish`: what a crash interrupts is visited again."""
        rows = self._db.execute(
            "SELECT id, url FROM urls WHERE state = 'waiting' AND depth = ? AND hops = ? ORDER BY id LIMIT ?",
            (*position, limit),
        )
        return [Entry(key, url, position) for key, url in rows]

    def finish(self, entry: Entry, outcome: Outcome) -> None:
        """Record what became of a URL."""
        self._db.execute(_FINISH, (*outcome, time.time(), entry.id))

    def reopen(self, host: str, reason: str) -> None:
        """Let the URLs of a host that failed for `reason` wait again."""
        self._db.execute(
            "UPDATE urls SET state = 'waiting', reason = NULL, detail = NULL "
            "WHERE state = 'failed' AND host = ? AND reason = ?",
            (host, reason),
        )

    # --- origins ------------------------------------------------------------------------------------------------

    def origin(self, origin: str) -> str | None:
        """The robots.txt of an origin as an earlier run of this crawl read it, or None when it never did."""
        row = self._db.execute("SELECT robots FROM origins WHERE origin = ?", (origin,)).fetchone()
        return str(row[0]) if row else None

    def add_origin(self, origin: str, status: int, robots: str) -> None:
        """Keep an origin's robots.txt; `robots` is empty where `status` says that there is none."""
        self._db.execute("INSERT OR REPLACE INTO origins VALUES (?, ?, ?, ?)", (origin, status, robots, time.time()))

    # --- durability ---------------------------------------------------------------------------------------------

    def segments(self) -> dict[str, int]:
        """Committed bytes of each WARC segment."""
        return dict(self._db.execute("SELECT name, bytes FROM segments ORDER BY name").fetchall())

    def commit(self, segments: dict[str, int]) -> None:
        """Make everything so far durable, together with the sizes of the segments, whose bytes must already be."""
        self._db.executemany("INSERT OR REPLACE INTO segments VALUES (?, ?)", segments.items())
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Undo what was not committed, and leave one plain file."""
        self._db.execute("ROLLBACK")
        self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()

    # --- results ------------------------------------------------------------------------------------------------

    def count(self, state: State) -> int:
        """URLs in a state."""
        return int(self._db.execute("SELECT count(*) FROM urls WHERE state = ?", (state,)).fetchone()[0])

    def by_reason(self) -> dict[tuple[str, str], int]:
        """URLs by (state, reason); the reason is empty where a state needs none."""
        rows = self._db.execute("SELECT state, coalesce(reason, ''), count(*) FROM urls GROUP BY 1, 2 ORDER BY 1, 2")
        return {(state, reason): count for state, reason, count in rows}

    def query(self, sql: str) -> list[tuple]:
        """Rows of a read-only question, for reports."""
        return self._db.execute(sql).fetchall()
