"""Tokens of the API, each of one tenant. The hub knows their hashes only."""

from collections.abc import Callable
from typing import Final

import msgspec
import sqlalchemy as sa

from hubd.errors import TenantRefused
from hubd.owned import Owned, tables
from hubd.registry.tenants import check_tenant

TOKENS_MAX: Final = 100  # of a tenant


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token of a tenant; what it is like is known only to its holder."""

    sha256: str
    tenant: str
    label: str
    may_write: bool
    created_ns: int


class ApiTokens:
    def __init__(self, owned: Owned, clock_ns: Callable[[], int]) -> None:
        self._owned = owned
        self._clock_ns = clock_ns

    def all(self) -> list[ApiToken]:
        """Return the tokens of all tenants, the oldest first."""
        with self._owned.read() as connection:
            found = _read(connection)
        return sorted(found, key=lambda token: (token.created_ns, token.sha256))

    def add(self, sha256: str, *, tenant: str, label: str, may_write: bool) -> None:
        """Let whoever holds the token with this hash ask for what is the tenant's.

        Raises TenantUnknown, TenantRefused when the tenant has enough of them.
        """
        table = tables.api_token
        with self._owned.change() as connection:
            check_tenant(connection, tenant)
            count = connection.scalar(
                sa.select(sa.func.count()).select_from(table).where(table.c.tenant == tenant)
            )
            if (count or 0) >= TOKENS_MAX:
                raise TenantRefused(f"{tenant} has {TOKENS_MAX} tokens; withdraw one first")
            connection.execute(
                table.insert().values(
                    sha256=sha256, tenant=tenant, label=label, may_write=int(may_write),
                    created_ns=self._clock_ns(),
                )
            )  # fmt: skip

    def withdraw(self, tenant: str, sha256: str) -> ApiToken:
        """Withdraw the one token whose hash begins so; raises TenantUnknown, TenantRefused."""
        table = tables.api_token
        with self._owned.change() as connection:
            check_tenant(connection, tenant)
            found = [
                token
                for token in _read(connection)
                if token.tenant == tenant and token.sha256.startswith(sha256)
            ]
            if len(found) != 1:
                raise TenantRefused(
                    f"{len(found)} tokens of {tenant} have a hash that begins with {sha256!r}; "
                    f"`hubd tenant tokens {tenant}` lists them"
                )
            connection.execute(table.delete().where(table.c.sha256 == found[0].sha256))
        return found[0]


def _read(connection: sa.Connection) -> list[ApiToken]:
    return [
        ApiToken(
            sha256=row.sha256, tenant=row.tenant, label=row.label, may_write=bool(row.may_write),
            created_ns=row.created_ns,
        )
        for row in connection.execute(tables.api_token.select())
    ]  # fmt: skip
