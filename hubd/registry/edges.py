"""Edges, the keys by which they are known, and whose they are."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from edgesync.cells.scope import GRANT_BYTES_MAX, GRANT_MAX
from hubd.errors import EdgeOfAnother, EdgeRefused, EdgeUnknown, GrantRefused
from hubd.owned import Owned, tables
from hubd.registry.names import DEFAULT_TENANT, NAME_PATTERN, NAME_RULE
from hubd.registry.tenants import check_tenant

# As many as the hub can speak to at once, and of one tenant: none takes the places of all. The
# default tenant is the operator's own, and the only one of most hubs.
EDGES_MAX: Final = 100_000
TENANT_EDGES_MAX: Final = 20_000
# Names stay with their tenant for ever, so there are only so many for each place.
NAMES_A_PLACE: Final = 5
TEXT_CHARS_MAX: Final = 255

# What an edge was to be told or to run, gone with it.
TOLD: Final = (
    tables.downlink_record, tables.downlink_lane, tables.downlink, tables.rule_delivery,
    tables.rule_assignment, tables.object_assignment,
)  # fmt: skip


class RegisteredEdge(msgspec.Struct, frozen=True, kw_only=True):
    """An edge.

    prefixes   of the keys it may be told of; none: all of its tenant's
    label      what people call it, for its name stays; type: which kind of edge it is
    customer   for whom the tenant runs it; it gives nobody rights
    """

    name: str
    tenant: str
    created_ns: int
    is_revoked: bool
    keys: tuple[str, ...]
    site: str = ""
    prefixes: tuple[str, ...] = ()
    label: str = ""
    type: str = ""
    customer: str = ""

    @property
    def grant(self) -> tuple[bytes, ...]:
        return tuple(prefix.encode() for prefix in self.prefixes)


class Edges:
    def __init__(self, owned: Owned, clock_ns: Callable[[], int]) -> None:
        self._owned = owned
        self._clock_ns = clock_ns

    def all(self) -> list[RegisteredEdge]:
        """Return the edges there are, by name, each with its keys."""
        return self._read(sa.true(), sa.true())

    def one(self, edge: str) -> RegisteredEdge:
        """Return one edge; raises EdgeUnknown."""
        found = self._read(tables.edge.c.name == edge, tables.key.c.edge == edge)
        if not found:
            raise EdgeUnknown(edge)
        return found[0]

    def _read(
        self, edges: sa.ColumnElement[bool], keys_of: sa.ColumnElement[bool]
    ) -> list[RegisteredEdge]:
        keys: dict[str, list[str]] = {}
        key = tables.key.c
        with self._owned.read() as connection:
            for public, edge in connection.execute(
                sa.select(key.public, key.edge).where(keys_of).order_by(key.added_ns)
            ):
                keys.setdefault(edge, []).append(public)
            rows = connection.execute(tables.edge.select().where(edges)).all()
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
                    label=row.label,
                    type=row.type,
                    customer=row.customer,
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

    def save(
        self,
        edge: str,
        *,
        tenant: str,
        site: str | None = None,
        label: str | None = None,
        type: str | None = None,
        prefixes: Sequence[str] | None = None,
    ) -> bool:
        """Create an edge that nobody can be yet, or change what is given; True if it is new.

        Raises EdgeOfAnother when the name is or was another tenant's, TenantUnknown, EdgeRefused,
        GrantRefused; nothing is changed then.
        """
        values = {
            name: _checked_text(name, value)
            for name, value in (("site", site), ("label", label), ("type", type))
            if value is not None
        }
        table = tables.edge
        with self._owned.change() as connection:
            is_new = register(connection, edge, tenant, self._clock_ns())
            if values:
                connection.execute(table.update().where(table.c.name == edge).values(**values))
            if prefixes is not None:
                set_prefixes(connection, edge, prefixes)
        return is_new

    def assign(self, edge: str, customer: str, also: Callable[[sa.Connection, str], None]) -> bool:
        """Assign `edge` to a customer, "" for none; False when that is so already.

        `also` is called in the same transaction, with the customer it was assigned to before.
        Raises EdgeUnknown.
        """
        table = tables.edge
        customer = _checked_text("customer", customer)
        with self._owned.change() as connection:
            check_edge(connection, edge)
            mine = table.c.name == edge
            before = str(connection.scalar(sa.select(table.c.customer).where(mine)))
            if before == customer:
                return False
            connection.execute(table.update().where(mine).values(customer=customer))
            also(connection, before)
        return True

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
            for table in TOLD:
                connection.execute(table.delete().where(table.c.edge == edge))


def register(connection: sa.Connection, edge: str, tenant: str, now_ns: int) -> bool:
    """Make an edge of a tenant unless there is one; returns whether it is new.

    Raises EdgeOfAnother, TenantUnknown, EdgeRefused.
    """
    owners, edges = tables.owner, tables.edge
    if not re.fullmatch(NAME_PATTERN, edge):
        raise EdgeRefused("edge", f"{edge[:63]!r} is no edge's name", NAME_RULE)
    owner = connection.scalar(sa.select(owners.c.tenant).where(owners.c.edge == edge))
    if owner not in (None, tenant):
        raise EdgeOfAnother(edge, tenant)
    check_tenant(connection, tenant)
    if is_edge(connection, edge):
        return False
    _check_room(connection, tenant, is_new_name=owner is None)
    if owner is None:
        connection.execute(owners.insert().values(edge=edge, tenant=tenant))
    connection.execute(edges.insert().values(name=edge, tenant=tenant, created_ns=now_ns))
    return True


def _check_room(connection: sa.Connection, tenant: str, *, is_new_name: bool) -> None:
    """Raise EdgeRefused when there is no place for one more edge, or for one more name."""
    most = EDGES_MAX if tenant == DEFAULT_TENANT else TENANT_EDGES_MAX

    def count(table: sa.Table) -> sa.Select[int]:
        return sa.select(sa.func.count()).select_from(table)

    edges, owners = tables.edge, tables.owner
    theirs = connection.scalar(count(edges).where(edges.c.tenant == tenant)) or 0
    if theirs >= most:
        raise EdgeRefused(
            "edge", f"the tenant {tenant} has {theirs} edges", "they are the most; forget one first"
        )
    if (connection.scalar(count(edges)) or 0) >= EDGES_MAX:
        raise EdgeRefused("edge", "the hub has no place for one more", f"at most {EDGES_MAX} edges")
    names = connection.scalar(count(owners).where(owners.c.tenant == tenant)) or 0
    if is_new_name and names >= most * NAMES_A_PLACE:
        raise EdgeRefused(
            "edge", f"the tenant {tenant} has had {names} names of edges",
            "they stay its own for ever: give one of them again",
        )  # fmt: skip


def _checked_text(field: str, value: str) -> str:
    if len(value) > TEXT_CHARS_MAX or any(one < " " or one == "\x7f" for one in value):
        raise EdgeRefused(
            field, f"{value[:40]!r} is no {field}",
            f"at most {TEXT_CHARS_MAX} characters, no control characters",
        )  # fmt: skip
    return value


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
