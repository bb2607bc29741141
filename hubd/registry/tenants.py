"""Tenants: whom edges, and what they sent, belong to."""

from collections.abc import Callable
from typing import Final

import msgspec
import sqlalchemy as sa

from hubd.errors import TenantRefused, TenantUnknown
from hubd.owned import Owned, tables
from hubd.registry.names import DEFAULT_TENANT

# Each has keys of its own, in a store and a thread of their own.
TENANTS_MAX: Final = 100
# What goes with a tenant; what its edges had went with them.
OWN: Final = (tables.api_token, tables.hub_user, tables.object_, tables.rule_bundle)


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    created_ns: int
    edges: int
    tokens: int


class Tenants:
    def __init__(self, owned: Owned, clock_ns: Callable[[], int]) -> None:
        self._owned = owned
        self._clock_ns = clock_ns

    def all(self) -> list[Tenant]:
        """Return the tenants there are, by name."""
        tenant = tables.tenant.c
        edges, tokens = (
            sa.select(sa.func.count())
            .select_from(table)
            .where(table.c.tenant == tenant.name)
            .scalar_subquery()
            for table in (tables.edge, tables.api_token)
        )
        with self._owned.read() as connection:
            rows = connection.execute(
                sa.select(tenant.name, tenant.created_ns, edges, tokens).where(
                    tenant.removed_ns.is_(None)
                )
            ).all()
        return sorted(
            (
                Tenant(name=name, created_ns=created_ns, edges=edge_count, tokens=token_count)
                for name, created_ns, edge_count, token_count in rows
            ),
            key=lambda each: each.name,
        )

    def check(self, name: str) -> None:
        """Raise TenantUnknown unless there is such a tenant."""
        with self._owned.read() as connection:
            check_tenant(connection, name)

    def add(self, name: str) -> None:
        """Make a tenant; raises TenantRefused for a name that is or was taken."""
        table = tables.tenant
        with self._owned.change() as connection:
            row = connection.execute(
                sa.select(table.c.removed_ns).where(table.c.name == name)
            ).one_or_none()
            if row is not None and row.removed_ns is None:
                raise TenantRefused(f"there is a tenant {name} already")
            if row is not None:
                raise TenantRefused(
                    f"{name} was removed, and what it had stays in the log: choose another name"
                )
            count = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            if count >= TENANTS_MAX:
                raise TenantRefused(f"{TENANTS_MAX} tenants, with those removed; use another hub")
            connection.execute(table.insert().values(name=name, created_ns=self._clock_ns()))

    def remove(self, name: str) -> None:
        """Remove a tenant without edges, with all else of its own; raises TenantRefused."""
        table, edge = tables.tenant, tables.edge
        with self._owned.change() as connection:
            check_tenant(connection, name)
            if name == DEFAULT_TENANT:
                raise TenantRefused(f"{name} is whose everything is that names no tenant: it stays")
            count = connection.scalar(
                sa.select(sa.func.count()).select_from(edge).where(edge.c.tenant == name)
            )
            if count:
                raise TenantRefused(f"{name} has {count} edges; `hubd forget` each of them first")
            for theirs in OWN:
                connection.execute(theirs.delete().where(theirs.c.tenant == name))
            connection.execute(
                table.update().where(table.c.name == name).values(removed_ns=self._clock_ns())
            )


def check_tenant(connection: sa.Connection, name: str) -> None:
    """Raise TenantUnknown unless there is such a tenant."""
    table = tables.tenant.c
    found = connection.scalar(
        sa.select(table.name).where(table.name == name, table.removed_ns.is_(None))
    )
    if found is None:
        raise TenantUnknown(name)
