"""The registry: tenants, edges with their keys and enrolment tokens, tokens of the API, and users.

A tenant is whom edges and what they sent belong to. An edge's name belongs to one tenant for ever,
also once the edge is forgotten: what it sent is in the log under that name. A tenant that was
removed leaves its name, too: nobody else may find what it had.

The daemon and the command line both open it, so `hubd enroll` and `hubd revoke` work beside a
running hub, which notices within its interval of polling.
"""

import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from hubd.owned import Owned, open_owned
from hubd.owned.database import BUSY_S
from hubd.registry.api_tokens import ApiToken, ApiTokens
from hubd.registry.audit import Audit
from hubd.registry.edges import Edges, RegisteredEdge
from hubd.registry.enrolments import Enrolments, Invitation
from hubd.registry.known import Changes, identity_of
from hubd.registry.names import DEFAULT_TENANT, NAME_PATTERN
from hubd.registry.tenants import Tenant, Tenants
from hubd.registry.users import Role, User, Users

__all__ = [
    "DEFAULT_TENANT", "NAME_PATTERN", "ApiToken", "Changes", "Invitation", "RegisteredEdge",
    "Registry", "Role", "Tenant", "User", "open_registry",
]  # fmt: skip


class Registry:
    """Rules over the tables of the registry in `owned`, which stays its opener's to close.

    Calls are short and synchronous, from any thread, one at a time. Every call raises OwnedUnusable
    when the database cannot be read or written, OwnedBusy when another process holds it.
    """

    def __init__(self, owned: Owned, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.owned = owned
        self._seen = -1
        self.tenants = Tenants(owned, clock_ns)
        self.edges = Edges(owned, clock_ns)
        self.enrolments = Enrolments(owned, clock_ns)
        self.api_tokens = ApiTokens(owned, clock_ns)
        self.users = Users(owned, clock_ns)
        self.audit = Audit(owned, clock_ns)

    @property
    def name(self) -> str:
        return self.owned.name

    def close(self) -> None:
        self.owned.close()

    def changes(self) -> Changes | None:
        """Return what there is if anybody has changed it since the last call, else None."""
        count = self.owned.change_count()
        if count == self._seen:
            return None
        found = Changes(
            keys=self.edges.live_keys(),
            edges=self.edges.all(),
            guests=self.enrolments.guests(),
            owners=self.edges.owners(),
            tenants=[tenant.name for tenant in self.tenants.all()],
            tokens=self.api_tokens.all(),
            users=self.users.all(),
        )
        self._seen = count  # of before it was read: what came between is read again
        return found


def open_registry(
    folder: Path,
    url: sa.URL | None = None,
    *,
    busy_s: float = BUSY_S,
    lazily: bool = False,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Registry:
    """Open the registry of the hub in `folder`, or at `url`; close it after use. See `open_owned`.

    Raises OwnedUnusable, OwnedReplaced when it is not the one that this hub knows, and StoreVersion
    when a newer version has used it.
    """
    owned = open_owned(folder, url, busy_s=busy_s, lazily=lazily, identity=identity_of(folder))
    return Registry(owned, clock_ns=clock_ns)
