"""The registry: edges, their keys, and tokens not redeemed yet, in one SQLite file.

The daemon and the command line both open it, so `hubd enroll` and `hubd revoke` work beside a
running hub, which notices within `watch`'s interval.
"""

import hashlib
import hmac
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgesync_transport.keys import is_key, new_routing_key, new_secret
from hubd.errors import EdgeExists, EdgeUnknown, EnrolRefused

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
EdgeName = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS edge (
    name TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_ns INTEGER NOT NULL,
    revoked_ns INTEGER, last_seen_ns INTEGER, software TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name), added_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS enrolment (
    routing_key TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name),
    secret_sha256 TEXT NOT NULL, expires_ns INTEGER NOT NULL, redeemed_key TEXT
) STRICT;
"""


class RegisteredEdge(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    tenant: str
    created_ns: int
    is_revoked: bool
    keys: tuple[str, ...]


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """What a token carries; the secret is known only here and there."""

    edge: str
    routing_key: str
    secret: str
    expires_ns: int


class Registry:
    """Open one per process; calls are short and synchronous."""

    def __init__(self, path: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock_ns = clock_ns
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        path.chmod(0o600)
        # FULL: an enrolment that was answered must survive a power cut (I1).
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {SCHEMA}")
        self._seen_version = -1
        self._own_changes = True

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _change(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        self._own_changes = True

    def has_changed(self) -> bool:
        """Whether anybody has changed the registry since the last call."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        # SQLite counts what other connections do; what this one does is noted here.
        changed = self._own_changes or version != self._seen_version
        self._seen_version = version
        self._own_changes = False
        return bool(changed)

    def edges(self) -> list[RegisteredEdge]:
        keys: dict[str, list[str]] = {}
        for public, edge in self._db.execute("SELECT public, edge FROM key ORDER BY added_ns"):
            keys.setdefault(edge, []).append(public)
        rows = self._db.execute(
            "SELECT name, tenant, created_ns, revoked_ns FROM edge ORDER BY name"
        )
        return [
            RegisteredEdge(
                name=name,
                tenant=tenant,
                created_ns=created_ns,
                is_revoked=revoked_ns is not None,
                keys=tuple(keys.get(name, ())),
            )
            for name, tenant, created_ns, revoked_ns in rows
        ]

    def live_keys(self) -> dict[str, str]:
        """Return public key -> edge for every edge that is not revoked."""
        rows = self._db.execute(
            "SELECT key.public, key.edge FROM key JOIN edge ON edge.name = key.edge "
            "WHERE edge.revoked_ns IS NULL"
        )
        return {public: edge for public, edge in rows}

    def invite(self, edge: str, *, tenant: str, valid_s: float, again: bool = False) -> Invitation:
        """Register `edge` and return a token's parts; `again` lets it come with a new key.

        Raises EdgeExists when the name is taken and `again` is not given.
        """
        now = self._clock_ns()
        invitation = Invitation(
            edge=edge,
            routing_key=new_routing_key(),
            secret=new_secret(),
            expires_ns=now + int(valid_s * 1e9),
        )
        with self._change():
            known = self._db.execute("SELECT 1 FROM edge WHERE name = ?", (edge,)).fetchone()
            if known and not again:
                raise EdgeExists(edge)
            self._db.execute(
                "INSERT INTO edge (name, tenant, created_ns) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET revoked_ns = NULL",
                (edge, tenant, now),
            )
            self._db.execute("DELETE FROM enrolment WHERE expires_ns < ?", (now - 10**15,))
            self._db.execute(
                "INSERT INTO enrolment VALUES (?, ?, ?, ?, NULL)",
                (invitation.routing_key, edge, _digest(invitation.secret), invitation.expires_ns),
            )
        return invitation

    def redeem(self, routing_key: str, secret: str, public: str) -> str:
        """Register `public` for the invited edge and return its name; raises EnrolRefused.

        Asking again with the same key is answered the same: the first answer may have been lost.
        """
        if not is_key(public):
            raise EnrolRefused("bad_key", "public_key is not 40 characters of Z85")
        now = self._clock_ns()
        with self._change():
            row = self._db.execute(
                "SELECT edge, secret_sha256, expires_ns, redeemed_key FROM enrolment "
                "WHERE routing_key = ?",
                (routing_key,),
            ).fetchone()
            # Compared also for an unknown routing key, so that timing tells nothing.
            edge, digest, expires_ns, redeemed = row or ("", _digest(""), 0, None)
            if not hmac.compare_digest(digest, _digest(secret)) or row is None:
                raise EnrolRefused("bad_credentials", "unknown routing key or wrong secret")
            if redeemed == public:
                return str(edge)
            if redeemed is not None:
                raise EnrolRefused("used", "this token was used already; ask for a new one")
            if now > expires_ns:
                raise EnrolRefused("expired", "this token has expired; ask for a new one")
            owner = self._db.execute("SELECT edge FROM key WHERE public = ?", (public,)).fetchone()
            if owner and owner[0] != edge:
                raise EnrolRefused("bad_key", "this key belongs to another edge; make a new one")
            # The new key replaces the old ones: a gateway has one, and a lost one must not stay.
            self._db.execute("DELETE FROM key WHERE edge = ?", (edge,))
            self._db.execute("INSERT INTO key VALUES (?, ?, ?)", (public, edge, now))
            self._db.execute(
                "UPDATE enrolment SET redeemed_key = ? WHERE routing_key = ?", (public, routing_key)
            )
        return str(edge)

    def revoke(self, edge: str) -> None:
        """Let no key of `edge` in any more; raises EdgeUnknown. Its data stays."""
        with self._change():
            done = self._db.execute(
                "UPDATE edge SET revoked_ns = ? WHERE name = ?", (self._clock_ns(), edge)
            )
            if not done.rowcount:
                raise EdgeUnknown(edge)


def _digest(secret: str) -> str:
    # 128 random bits need no slow hash.
    return hashlib.sha256(secret.encode()).hexdigest()
