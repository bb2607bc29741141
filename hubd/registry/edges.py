"""Edges, the keys by which they are known, and whose they are."""

import json
from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa

from edgesync.cells.scope import GRANT_BYTES_MAX, GRANT_MAX
from hubd.errors import EdgeUnknown, GrantRefused
from hubd.owned import Owned, tables


class RegisteredEdge(msgspec.Struct, frozen=True, kw_only=True):
    """An edge. `prefixes` are of the keys it may be told of; none: all of its tenant's."""

    name: str
    tenant: str
    created_ns: int
    is_revoked: bool
    keys: tuple[str, ...]
    site: str = ""
    prefixes: tuple[str, ...] = ()

    @property
    def grant(self) -> tuple[bytes, ...]:
        return tuple(prefix.encode() for prefix in self.prefixes)


class Edges:
    def __init__(self, owned: Owned, clock_ns: Callable[[], int]) -> None:
        self._owned = owned
        self._clock_ns = clock_ns

    def all(self) -> list[RegisteredEdge]:
        """Return the edges there are, by name, each with its keys."""
        keys: dict[str, list[str]] = {}
        key = tables.key.c
        with self._owned.read() as connection:
            for public, edge in connection.execute(
                sa.select(key.public, key.edge).order_by(key.added_ns)
            ):
                keys.setdefault(edge, []).append(public)
            rows = connection.execute(tables.edge.select()).all()
        return sorted(
            (
                RegisteredEdge(
                    name=row.name,
                    tenant=row.tenant,
                    created_ns=row.created_ns,
                    is_revoked=row.revoked_ns is not None,
                    keys=tuple(keys.get(row.name, ())),
                    site=row.site,
                    prefixes=tuple(json.loads(row.prefixes)),
                )
                for row in rows
            ),
            key=lambda edge: edge.name,
        )

    def live_keys(self) -> dict[str, str]:
        """Return public key -> edge for every key that is let in."""
        return self._pairs(tables.key.c.public, tables.key.c.edge)

    def owners(self) -> dict[str, str]:
        """Return edge -> tenant for every edge there is, or ever was."""
        return self._pairs(tables.owner.c.edge, tables.owner.c.tenant)

    def _pairs(self, left: sa.Column[str], right: sa.Column[str]) -> dict[str, str]:
        with self._owned.read() as connection:
            return {first: second for first, second in connection.execute(sa.select(left, right))}

    def grant(self, edge: str, prefixes: Sequence[str]) -> None:
        """Let `edge` be told of keys with these prefixes, none: of all; raises EdgeUnknown.

        Raises GrantRefused for what is no grant. What the edge has already, stays there.
        """
        with self._owned.change() as connection:
            check_edge(connection, edge)
            set_prefixes(connection, edge, prefixes)

    def revoke(self, edge: str) -> None:
        """Let no key of `edge` in, now or ever again; raises EdgeUnknown. Its data stays.

        A token that was not redeemed is withdrawn with the keys.
        """
        now = self._clock_ns()
        table = tables.edge
        with self._owned.change() as connection:
            check_edge(connection, edge)
            connection.execute(table.update().where(table.c.name == edge).values(revoked_ns=now))
            revoke_keys(connection, edge, now)
            expire_tokens(connection, edge, now)

    def forget(self, edge: str) -> None:
        """Take `edge` out of the registry, and what it was to be told; its keys stay revoked.

        Raises EdgeUnknown.
        """
        with self._owned.change() as connection:
            check_edge(connection, edge)
            revoke_keys(connection, edge, self._clock_ns())
            connection.execute(tables.enrolment.delete().where(tables.enrolment.c.edge == edge))
            connection.execute(tables.edge.delete().where(tables.edge.c.name == edge))
            for table in (tables.downlink_record, tables.downlink_lane, tables.downlink):
                connection.execute(table.delete().where(table.c.edge == edge))


def is_edge(connection: sa.Connection, edge: str) -> bool:
    name = tables.edge.c.name
    return connection.scalar(sa.select(name).where(name == edge)) is not None


def check_edge(connection: sa.Connection, edge: str) -> None:
    if not is_edge(connection, edge):
        raise EdgeUnknown(edge)


def set_prefixes(connection: sa.Connection, edge: str, prefixes: Sequence[str]) -> None:
    """Store what an edge is granted; raises GrantRefused."""
    unique = sorted(set(prefixes))
    if len(unique) > GRANT_MAX:
        raise GrantRefused(f"{len(unique)} prefixes; an edge is granted {GRANT_MAX} at most")
    for prefix in unique:
        if not 1 <= len(prefix.encode()) <= GRANT_BYTES_MAX:
            raise GrantRefused(f"a prefix has 1 to {GRANT_BYTES_MAX} bytes, not {prefix[:40]!r}")
    table = tables.edge
    connection.execute(
        table.update().where(table.c.name == edge).values(prefixes=json.dumps(unique))
    )


def revoke_keys(connection: sa.Connection, edge: str, now_ns: int, *, but: str = "") -> None:
    """Let no key of `edge` in any more but one, for good."""
    key, revoked = tables.key, tables.revoked_key
    is_lost = sa.and_(key.c.edge == edge, key.c.public != but)
    known = sa.select(revoked.c.public).where(revoked.c.public == key.c.public)
    connection.execute(
        revoked.insert().from_select(
            ["public", "edge", "revoked_ns"],
            sa.select(key.c.public, key.c.edge, sa.literal(now_ns, sa.BigInteger)).where(
                is_lost, ~known.exists()
            ),
        )
    )
    connection.execute(key.delete().where(is_lost))


def expire_tokens(connection: sa.Connection, edge: str, now_ns: int) -> None:
    """Let no token of `edge` in that was not redeemed; to be told apart, it stays as expired."""
    table = tables.enrolment
    connection.execute(
        table.update()
        .where(table.c.edge == edge, table.c.redeemed_key.is_(None), table.c.expires_ns >= now_ns)
        .values(expires_ns=now_ns - 1)
    )
