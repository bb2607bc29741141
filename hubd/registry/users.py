"""Users: people with a name, a password and a role, of one tenant or of the hub as a whole."""

import enum
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from hubd.errors import UserRefused, UserUnknown
from hubd.owned import Owned, tables
from hubd.registry.passwords import check_password, hash_password
from hubd.registry.tenants import check_tenant

# Of the hub, and of one tenant: no tenant takes all the places.
USERS_MAX: Final = 5000
TENANT_USERS_MAX: Final = 1000
SITES_MAX: Final = 100
SITE_CHARS_MAX: Final = 255
# Also an address of mail; in lower case, so that no two differ in capitals alone.
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,62}")
NAME_RULE: Final = "letters, digits, . _ @ + -, at most 63, beginning with a letter or digit"


class Role(enum.StrEnum):
    """Rights of a user; everybody sees all of the tenant."""

    ADMIN = "admin"  # everything, and may change users
    OPERATOR = "operator"  # alarms, attributes and calls of devices, at the sites that are given
    VIEWER = "viewer"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user as the hub knows them.

    tenant    None: of the hub as a whole, with all its tenants
    sites     of an operator; none: every site
    password  as it is stored, see `hubd.registry.passwords`
    """

    name: str
    tenant: str | None
    role: Role
    sites: tuple[str, ...] = ()
    password: str
    created_ns: int

    def may_operate(self, site: str) -> bool:
        """Return whether alarms, attributes and calls of devices at this site are theirs."""
        if self.role is Role.OPERATOR:
            return not self.sites or site in self.sites
        return self.role is Role.ADMIN


class Users:
    """`by` is the admin who changes something, who has to be one still: so of two admins who remove
    each other at once, one stays. Empty: the command line of the hub's machine.
    """

    def __init__(self, owned: Owned, clock_ns: Callable[[], int]) -> None:
        self._owned = owned
        self._clock_ns = clock_ns

    def all(self) -> list[User]:
        """Return the users of all tenants, by name."""
        with self._owned.read() as connection:
            rows = connection.execute(tables.hub_user.select()).all()
        return sorted((_user(row) for row in rows), key=lambda user: user.name)

    def add(
        self,
        name: str,
        password: str,
        *,
        role: Role,
        tenant: str | None,
        sites: Sequence[str] = (),
        by: str = "",
    ) -> User:
        """Make a user; raises UserRefused for what cannot be, TenantUnknown."""
        name = name.lower()
        if not NAME.fullmatch(name):
            raise UserRefused(f"{name[:80]!r} is no name of a user: {NAME_RULE}")
        check_password(password)
        _check_sites(role, sites)
        stored = hash_password(password)  # before the database is taken
        table = tables.hub_user
        with self._owned.change() as connection:
            _check_admin(connection, by, tenant)
            if tenant is not None:
                check_tenant(connection, tenant)
            if connection.scalar(sa.select(table.c.name).where(table.c.name == name)):
                raise UserRefused(f"the name {name} is taken on this hub; choose another one")
            _check_room(connection, tenant)
            connection.execute(
                table.insert().values(
                    name=name, tenant=tenant, role=role.value, sites=json.dumps(sorted(set(sites))),
                    password=stored, created_ns=self._clock_ns(),
                )
            )  # fmt: skip
            return _found(connection, name, tenant)

    def set_role(
        self,
        name: str,
        role: Role,
        sites: Sequence[str] = (),
        *,
        tenant: str | None = None,
        by: str = "",
    ) -> User:
        """Give a user another role, and an operator these sites; raises UserUnknown, UserRefused.

        tenant   whose user it has to be; None: anybody's
        """
        _check_sites(role, sites)
        values = {"role": role.value, "sites": json.dumps(sorted(set(sites)))}
        return self._change(name, tenant, by, values)

    def set_password(
        self, name: str, password: str, *, tenant: str | None = None, by: str = ""
    ) -> User:
        """Give a user another password; raises UserUnknown, UserRefused."""
        check_password(password)
        return self._change(name, tenant, by, {"password": hash_password(password)})

    def remove(self, name: str, *, tenant: str | None = None, by: str = "") -> None:
        """Remove a user; raises UserUnknown."""
        table = tables.hub_user
        with self._owned.change() as connection:
            _check_admin(connection, by, tenant)
            found = _found(connection, name, tenant)
            connection.execute(table.delete().where(table.c.name == found.name))

    def _change(
        self, name: str, tenant: str | None, by: str, values: Mapping[str, str]
    ) -> User:  # fmt: skip
        table = tables.hub_user
        with self._owned.change() as connection:
            _check_admin(connection, by, tenant)
            found = _found(connection, name, tenant)
            connection.execute(table.update().where(table.c.name == found.name).values(values))
            return _found(connection, name, tenant)


def _check_admin(connection: sa.Connection, by: str, tenant: str | None) -> None:
    """Raise UserRefused unless `by` is an admin of the tenant, or of the hub, or nobody."""
    if not by:
        return
    table = tables.hub_user
    row = connection.execute(table.select().where(table.c.name == by)).one_or_none()
    if row is None or row.role != Role.ADMIN or row.tenant not in (None, tenant):
        raise UserRefused(f"{by} is no admin any more")


def _check_room(connection: sa.Connection, tenant: str | None) -> None:
    table = tables.hub_user
    count = sa.select(sa.func.count()).select_from(table)
    theirs = connection.scalar(count.where(table.c.tenant.is_not_distinct_from(tenant))) or 0
    if theirs >= TENANT_USERS_MAX:
        whose = "the hub as a whole" if tenant is None else f"the tenant {tenant}"
        raise UserRefused(f"{whose} has {theirs} users, who are the most; remove one first")
    if (connection.scalar(count) or 0) >= USERS_MAX:
        raise UserRefused(f"the hub has {USERS_MAX} users; remove one first")


def _check_sites(role: Role, sites: Sequence[str]) -> None:
    if sites and role is not Role.OPERATOR:
        raise UserRefused(f"`sites` are of an operator; a user who is {role} has none")
    if len(sites) > SITES_MAX:
        raise UserRefused(f"{len(sites)} sites; an operator has {SITES_MAX} at most, or all")
    for site in sites:
        if not 1 <= len(site) <= SITE_CHARS_MAX:
            raise UserRefused(f"a site has 1 to {SITE_CHARS_MAX} characters, not {site[:40]!r}")


def _found(connection: sa.Connection, name: str, tenant: str | None) -> User:
    table = tables.hub_user
    row = connection.execute(table.select().where(table.c.name == name.lower())).one_or_none()
    if row is None or tenant not in (None, row.tenant):
        raise UserUnknown(name)
    return _user(row)


def _user(row: sa.Row[tuple[object, ...]]) -> User:
    return User(
        name=row.name, tenant=row.tenant, role=Role(row.role), sites=tuple(json.loads(row.sites)),
        password=row.password, created_ns=row.created_ns,
    )  # fmt: skip
