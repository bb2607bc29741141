"""The registry: tenants, edges, their keys, and tokens, in one SQLite file.

A tenant is whom edges and what they sent belong to. An edge's name belongs to one tenant for ever,
also once the edge is forgotten: what it sent is in the log under that name. A tenant that was
removed leaves its name, too: nobody else may find what it had.

The daemon and the command line both open it, so `hubd enroll` and `hubd revoke` work beside a
running hub, which notices within `watch`'s interval.
"""

import hashlib
import hmac
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgesync_transport.keys import guest_keys, is_key, new_routing_key, new_secret
from hubd.errors import (
    EdgeExists,
    EdgeOfAnother,
    EdgeUnknown,
    EnrolRefused,
    RegistryBusy,
    RegistryUnusable,
    TenantRefused,
    TenantUnknown,
)

log = logging.getLogger(__name__)

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
EdgeName = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
# Whose everything is as long as nobody names another tenant.
DEFAULT_TENANT: Final = "default"
TENANTS_MAX: Final = 100  # each has keys of its own, in a store and a thread of their own
TOKENS_MAX: Final = 100  # of a tenant

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tenant (
    name TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, removed_ns INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS api_token (
    sha256 TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenant(name), label TEXT NOT NULL,
    may_write INTEGER NOT NULL, created_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS owner (
    edge TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenant(name)
) STRICT;
CREATE TABLE IF NOT EXISTS edge (
    name TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_ns INTEGER NOT NULL,
    revoked_ns INTEGER, last_seen_ns INTEGER, software TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name), added_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS enrolment (
    routing_key TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name),
    secret_sha256 TEXT NOT NULL, expires_ns INTEGER NOT NULL, redeemed_key TEXT, guest TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS revoked_key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL, revoked_ns INTEGER NOT NULL
) STRICT;
"""
# Revoking was once of the edge alone, and left its keys in the table.
REVOKED_EDGES: Final = """
SELECT DISTINCT edge.name, edge.revoked_ns FROM edge JOIN key ON key.edge = edge.name
WHERE edge.revoked_ns IS NOT NULL
"""
# Of an earlier version, which had tenants' names with the edges alone.
ADOPTED_EDGES: Final = """
SELECT DISTINCT tenant FROM edge WHERE name NOT IN (SELECT edge FROM owner)
"""
# How long a call waits for another process that holds the file.
BUSY_S: Final = 5.0
# How long the holder of a token that is no longer good is told so, over the link.
GUESTS_TOLD_NS: Final = 86_400 * 10**9


class RegisteredEdge(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    tenant: str
    created_ns: int
    is_revoked: bool
    keys: tuple[str, ...]
    site: str = ""


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token of a tenant; what it is like is known only to its holder."""

    sha256: str
    tenant: str
    label: str
    may_write: bool
    created_ns: int


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    created_ns: int
    edges: int
    tokens: int


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """What a token carries; the secret is known only here and there."""

    edge: str
    routing_key: str
    secret: str
    expires_ns: int


class Changes(msgspec.Struct, frozen=True):
    """What a hub that runs has to know of the registry."""

    keys: dict[str, str]
    edges: list[RegisteredEdge]
    guests: dict[str, str]
    owners: dict[str, str]
    tenants: list[str]
    tokens: list[ApiToken]


class Registry:
    """Open one per process; calls are short and synchronous, from any thread, one at a time.

    Every call raises RegistryUnusable when the file cannot be read or written, RegistryBusy when
    that is because another process holds it for longer than `busy_s`.
    """

    def __init__(
        self, path: Path, *, clock_ns: Callable[[], int] = time.time_ns, busy_s: float = BUSY_S
    ) -> None:
        self.path = path
        self._clock_ns = clock_ns
        self._busy_s = busy_s
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path, isolation_level=None, timeout=busy_s, check_same_thread=False
        )
        path.chmod(0o600)
        with self._use() as db:
            # FULL: an enrolment that was answered must survive a power cut (I1).
            db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {SCHEMA}")
            columns = {row[1] for row in db.execute("PRAGMA table_info(enrolment)")}
            if "guest" not in columns:
                db.execute("ALTER TABLE enrolment ADD COLUMN guest TEXT")
            if "site" not in {row[1] for row in db.execute("PRAGMA table_info(edge)")}:
                db.execute("ALTER TABLE edge ADD COLUMN site TEXT NOT NULL DEFAULT ''")
            names = [name for (name,) in db.execute(ADOPTED_EDGES)]
            is_new = not db.execute("SELECT 1 FROM tenant").fetchone()
            revoked = db.execute(REVOKED_EDGES).fetchall()
            self._empty_wal(db)  # a hub that was killed left one
        self._seen_version = -1
        self._own_changes = True
        if names or is_new:
            with self._change() as db:
                _adopt(db, [DEFAULT_TENANT, *names], self._clock_ns())
        if revoked:
            with self._change() as db:
                for edge, revoked_ns in revoked:
                    _revoke_keys(db, edge, revoked_ns)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.DatabaseError as error:
                if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
                    raise  # a bug of ours
                if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise RegistryBusy(str(self.path)) from error
                raise RegistryUnusable(str(self.path), str(error)) from error

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._use() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk ends it by itself
                    db.execute("ROLLBACK")
                raise
            self._own_changes = True
            self._empty_wal(db)

    def _empty_wal(self, db: sqlite3.Connection) -> None:
        """Move what was committed into the main file, unless others read or write it just now.

        A hub that was killed leaves its WAL behind. A copy of registry.db alone, or a damaged WAL,
        would lock edges out and let revoked keys in again. It is emptied and not only copied: the
        first part of a damaged WAL would bring old pages back. Where others are in the way, the
        next change tries again.
        """
        db.execute("PRAGMA busy_timeout = 0")
        try:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:  # the change itself is durable in the WAL
            log.info("registry: the write-ahead log stays for now: %s", error)
        finally:
            db.execute(f"PRAGMA busy_timeout = {round(self._busy_s * 1000)}")

    def changes(self) -> Changes | None:
        """Return what there is if anybody has changed it since the last call, else None."""
        if not self.has_changed():
            return None
        try:
            return Changes(
                self.live_keys(), self.edges(), self.guests(), self.owners(),
                [one.name for one in self.tenants()], self.tokens(),
            )  # fmt: skip
        except RegistryUnusable:
            self._own_changes = True  # not seen yet
            raise

    def has_changed(self) -> bool:
        """Whether anybody has changed the registry since the last call."""
        with self._use() as db:
            (version,) = db.execute("PRAGMA data_version").fetchone()
        # SQLite counts what other connections do; what this one does is noted here.
        changed = self._own_changes or version != self._seen_version
        self._seen_version = version
        self._own_changes = False
        return bool(changed)

    def edges(self) -> list[RegisteredEdge]:
        keys: dict[str, list[str]] = {}
        with self._use() as db:
            for public, edge in db.execute("SELECT public, edge FROM key ORDER BY added_ns"):
                keys.setdefault(edge, []).append(public)
            rows = db.execute(
                "SELECT name, tenant, created_ns, revoked_ns, site FROM edge ORDER BY name"
            ).fetchall()
        return [
            RegisteredEdge(
                name=name,
                tenant=tenant,
                created_ns=created_ns,
                is_revoked=revoked_ns is not None,
                keys=tuple(keys.get(name, ())),
                site=site,
            )
            for name, tenant, created_ns, revoked_ns, site in rows
        ]

    # -- tenants -----------------------------------------------------------------------------------

    def tenants(self) -> list[Tenant]:
        """Return the tenants there are, by name."""
        with self._use() as db:
            rows = db.execute(
                "SELECT name, created_ns, "
                "(SELECT count(*) FROM edge WHERE edge.tenant = tenant.name), "
                "(SELECT count(*) FROM api_token WHERE api_token.tenant = tenant.name) "
                "FROM tenant WHERE removed_ns IS NULL ORDER BY name"
            ).fetchall()
        return [
            Tenant(name=name, created_ns=created_ns, edges=edges, tokens=tokens)
            for name, created_ns, edges, tokens in rows
        ]

    def owners(self) -> dict[str, str]:
        """Return edge -> tenant for every edge there is, or ever was."""
        with self._use() as db:
            return dict(db.execute("SELECT edge, tenant FROM owner").fetchall())

    def add_tenant(self, name: str) -> None:
        """Make a tenant; raises TenantRefused for a name that is or was taken."""
        with self._change() as db:
            row = db.execute("SELECT removed_ns FROM tenant WHERE name = ?", (name,)).fetchone()
            if row is not None and row[0] is None:
                raise TenantRefused(f"there is a tenant {name} already")
            if row is not None:
                raise TenantRefused(
                    f"{name} was removed, and what it had stays in the log: choose another name"
                )
            (count,) = db.execute("SELECT count(*) FROM tenant").fetchone()
            if count >= TENANTS_MAX:
                raise TenantRefused(f"{TENANTS_MAX} tenants, with those removed; use another hub")
            now = self._clock_ns()
            db.execute("INSERT INTO tenant (name, created_ns) VALUES (?, ?)", (name, now))

    def remove_tenant(self, name: str) -> None:
        """Remove a tenant that has no edges, with its tokens; raises TenantRefused."""
        with self._change() as db:
            _check_tenant(db, name)
            if name == DEFAULT_TENANT:
                raise TenantRefused(f"{name} is whose everything is that names no tenant: it stays")
            (count,) = db.execute("SELECT count(*) FROM edge WHERE tenant = ?", (name,)).fetchone()
            if count:
                raise TenantRefused(f"{name} has {count} edges; `hubd forget` each of them first")
            db.execute("DELETE FROM api_token WHERE tenant = ?", (name,))
            db.execute("UPDATE tenant SET removed_ns = ? WHERE name = ?", (self._clock_ns(), name))

    def tokens(self) -> list[ApiToken]:
        """Return the tokens of all tenants, the oldest first."""
        with self._use() as db:
            rows = db.execute(
                "SELECT sha256, tenant, label, may_write, created_ns FROM api_token "
                "ORDER BY created_ns, sha256"
            ).fetchall()
        return [
            ApiToken(
                sha256=sha256, tenant=tenant, label=label, may_write=bool(may_write),
                created_ns=created_ns,
            )
            for sha256, tenant, label, may_write, created_ns in rows
        ]  # fmt: skip

    def add_token(self, sha256: str, *, tenant: str, label: str, may_write: bool) -> None:
        """Let whoever holds the token with this hash ask for what is the tenant's.

        Raises TenantUnknown, TenantRefused when the tenant has enough of them.
        """
        with self._change() as db:
            _check_tenant(db, tenant)
            (count,) = db.execute(
                "SELECT count(*) FROM api_token WHERE tenant = ?", (tenant,)
            ).fetchone()
            if count >= TOKENS_MAX:
                raise TenantRefused(f"{tenant} has {TOKENS_MAX} tokens; withdraw one first")
            db.execute(
                "INSERT INTO api_token VALUES (?, ?, ?, ?, ?)",
                (sha256, tenant, label, int(may_write), self._clock_ns()),
            )

    def withdraw_token(self, tenant: str, sha256: str) -> ApiToken:
        """Withdraw the one token whose hash begins so; raises TenantUnknown, TenantRefused."""
        found = [
            one for one in self.tokens() if one.tenant == tenant and one.sha256.startswith(sha256)
        ]
        with self._change() as db:
            _check_tenant(db, tenant)
            if len(found) != 1:
                raise TenantRefused(
                    f"{len(found)} tokens of {tenant} have a hash that begins with {sha256!r}; "
                    f"`hubd tenant tokens {tenant}` lists them"
                )
            db.execute("DELETE FROM api_token WHERE sha256 = ?", (found[0].sha256,))
        return found[0]

    # -- edges -------------------------------------------------------------------------------------

    def live_keys(self) -> dict[str, str]:
        """Return public key -> edge for every key that is let in."""
        with self._use() as db:
            return dict(db.execute("SELECT public, edge FROM key").fetchall())

    def guests(self) -> dict[str, str]:
        """Return the public key of each token's holder -> the token's routing key.

        Also of tokens that are no longer good: whoever shows one is told why.
        """
        with self._use() as db:
            return dict(
                db.execute(
                    "SELECT guest, routing_key FROM enrolment "
                    "WHERE guest IS NOT NULL AND expires_ns > ? ORDER BY expires_ns",
                    (self._clock_ns() - GUESTS_TOLD_NS,),
                ).fetchall()
            )

    def invite(
        self,
        edge: str,
        *,
        tenant: str = DEFAULT_TENANT,
        site: str = "",
        valid_s: float,
        again: bool = False,
    ) -> Invitation:
        """Register `edge` and return a token's parts; `again` lets it come with a new key.

        Nobody is let in before the token is redeemed: a revoked edge stays revoked until then. Of
        several tokens of one edge only the newest is good. Raises EdgeExists when the name is
        taken and `again` is not given, TenantUnknown, EdgeOfAnother when the name is or was
        another tenant's.
        """
        now = self._clock_ns()
        invitation = Invitation(
            edge=edge,
            routing_key=new_routing_key(),
            secret=new_secret(),
            expires_ns=now + int(valid_s * 1e9),
        )
        with self._change() as db:
            known = db.execute("SELECT 1 FROM edge WHERE name = ?", (edge,)).fetchone()
            owner = db.execute("SELECT tenant FROM owner WHERE edge = ?", (edge,)).fetchone()
            if owner and owner[0] != tenant:
                raise EdgeOfAnother(edge, tenant)
            if known and not again:
                raise EdgeExists(edge)
            _check_tenant(db, tenant)
            db.execute("INSERT OR IGNORE INTO owner VALUES (?, ?)", (edge, tenant))
            db.execute(
                "INSERT OR IGNORE INTO edge (name, tenant, created_ns) VALUES (?, ?, ?)",
                (edge, tenant, now),
            )
            if site:
                db.execute("UPDATE edge SET site = ? WHERE name = ?", (site, edge))
            db.execute("DELETE FROM enrolment WHERE expires_ns < ?", (now - 10**15,))
            _withdraw_tokens(db, edge, now)
            db.execute(
                "INSERT INTO enrolment VALUES (?, ?, ?, ?, NULL, ?)",
                (
                    invitation.routing_key,
                    edge,
                    _digest(invitation.secret),
                    invitation.expires_ns,
                    guest_keys(invitation.secret).public,
                ),
            )
        return invitation

    def redeem(self, routing_key: str, secret: str, public: str) -> str:
        """Register `public` for the invited edge and return its name; raises EnrolRefused.

        Asking again with the same key is answered the same: the first answer may have been lost.
        A key that was revoked, or replaced by another one, is never accepted again.
        """
        # Wrong credentials cost a read: whoever guesses must not hold up the registry's writers.
        with self._use() as db:
            _check_credentials(db, routing_key, secret)
        return self.redeem_as_guest(routing_key, public)

    def redeem_as_guest(self, routing_key: str, public: str) -> str:
        """Do the same for whoever has proven in another way to hold the token."""
        if not is_key(public):
            raise EnrolRefused("bad_key", "public_key is not 40 characters of Z85")
        with self._change() as db:
            return self._register(db, routing_key, public)

    def _register(self, db: sqlite3.Connection, routing_key: str, public: str) -> str:
        now = self._clock_ns()
        row = db.execute(
            "SELECT edge, expires_ns, redeemed_key FROM enrolment WHERE routing_key = ?",
            (routing_key,),
        ).fetchone()
        if row is None:
            raise EnrolRefused("bad_credentials", "this token is not known any more")
        edge, expires_ns, redeemed = row
        if db.execute("SELECT 1 FROM revoked_key WHERE public = ?", (public,)).fetchone():
            raise EnrolRefused("revoked", "this key was revoked; make a new one")
        if redeemed == public:
            return str(edge)
        if redeemed is not None:
            raise EnrolRefused("used", "this token was used already; ask for a new one")
        if now > expires_ns:
            raise EnrolRefused("expired", "this token has expired; ask for a new one")
        owner = db.execute("SELECT edge FROM key WHERE public = ?", (public,)).fetchone()
        if owner and owner[0] != edge:
            raise EnrolRefused("bad_key", "this key belongs to another edge; make a new one")
        # The new key replaces the old ones: a gateway has one, and a lost one must not stay.
        _revoke_keys(db, edge, now, but=public)
        db.execute("INSERT OR IGNORE INTO key VALUES (?, ?, ?)", (public, edge, now))
        db.execute("UPDATE edge SET revoked_ns = NULL WHERE name = ?", (edge,))
        db.execute(
            "UPDATE enrolment SET redeemed_key = ? WHERE routing_key = ?", (public, routing_key)
        )
        return str(edge)

    def revoke(self, edge: str) -> None:
        """Let no key of `edge` in, now or ever again; raises EdgeUnknown. Its data stays.

        A token that was not redeemed is withdrawn with the keys.
        """
        now = self._clock_ns()
        with self._change() as db:
            done = db.execute("UPDATE edge SET revoked_ns = ? WHERE name = ?", (now, edge))
            if not done.rowcount:
                raise EdgeUnknown(edge)
            _revoke_keys(db, edge, now)
            _withdraw_tokens(db, edge, now)

    def forget(self, edge: str) -> None:
        """Take `edge` out of the registry; its keys stay revoked. Raises EdgeUnknown."""
        now = self._clock_ns()
        with self._change() as db:
            if not db.execute("SELECT 1 FROM edge WHERE name = ?", (edge,)).fetchone():
                raise EdgeUnknown(edge)
            _revoke_keys(db, edge, now)
            db.execute("DELETE FROM enrolment WHERE edge = ?", (edge,))
            db.execute("DELETE FROM edge WHERE name = ?", (edge,))


def _adopt(db: sqlite3.Connection, names: list[str], now_ns: int) -> None:
    """Make tenants of names that stood with edges alone; what is no name gets one like it.

    A tenant's name is that of a folder: it was any text once, and may not become a path.
    """
    for name in names:
        legal = name
        if not re.fullmatch(NAME_PATTERN, name):
            like = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:54] or "tenant"
            legal = f"{like}-{_digest(name)[:8]}"
            log.warning("the tenant %r of an earlier version is called %s now", name, legal)
            db.execute("UPDATE edge SET tenant = ? WHERE tenant = ?", (legal, name))
        db.execute("INSERT OR IGNORE INTO tenant VALUES (?, ?, NULL)", (legal, now_ns))
    db.execute("INSERT OR IGNORE INTO owner SELECT name, tenant FROM edge")


def _check_tenant(db: sqlite3.Connection, name: str) -> None:
    row = db.execute(
        "SELECT 1 FROM tenant WHERE name = ? AND removed_ns IS NULL", (name,)
    ).fetchone()
    if row is None:
        raise TenantUnknown(name)


def _check_credentials(db: sqlite3.Connection, routing_key: str, secret: str) -> None:
    row = db.execute(
        "SELECT secret_sha256 FROM enrolment WHERE routing_key = ?", (routing_key,)
    ).fetchone()
    # Compared also for an unknown routing key, so that timing tells nothing.
    (digest,) = row or (_digest(""),)
    if not hmac.compare_digest(digest, _digest(secret)) or row is None:
        raise EnrolRefused("bad_credentials", "unknown routing key or wrong secret")


def _revoke_keys(db: sqlite3.Connection, edge: str, now_ns: int, *, but: str = "") -> None:
    db.execute(
        "INSERT OR IGNORE INTO revoked_key "
        "SELECT public, edge, ? FROM key WHERE edge = ? AND public <> ?",
        (now_ns, edge, but),
    )
    db.execute("DELETE FROM key WHERE edge = ? AND public <> ?", (edge, but))


def _withdraw_tokens(db: sqlite3.Connection, edge: str, now_ns: int) -> None:
    """Let no token of `edge` in that was not redeemed; to be told apart, it stays as expired."""
    db.execute(
        "UPDATE enrolment SET expires_ns = min(expires_ns, ?) "
        "WHERE edge = ? AND redeemed_key IS NULL",
        (now_ns - 1, edge),
    )


def _digest(secret: str) -> str:
    # 128 random bits need no slow hash.
    return hashlib.sha256(secret.encode()).hexdigest()
