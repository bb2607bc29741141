"""Changes by users: who, when, where, what. The newest are kept, of each tenant some."""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import sqlalchemy as sa

from hubd.owned import Owned, tables

# Of the hub, and so many more until it is looked whose the oldest are.
KEPT_MAX: Final = 100_000
SWEPT_EVERY: Final = 256
DETAIL_CHARS_MAX: Final = 1000
# Of the newest entries, for one page of those that fit.
LOOKED_AT_MAX: Final = 20_000


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`what` is the path of the API that does it; `detail` the beginning of its JSON."""

    n: int
    time_ns: int
    tenant: str
    by: str
    what: str
    edge: str
    detail: str


class Audit:
    def __init__(self, owned: Owned, clock_ns: Callable[[], int]) -> None:
        self._owned = owned
        self._clock_ns = clock_ns

    def note(self, *, tenant: str, by: str, what: str, edge: str, detail: str) -> None:
        """Keep that somebody has changed something.

        Beyond KEPT_MAX the oldest go of those tenants that have most: who changes much does not
        push out what others have changed.
        """
        table = tables.audit
        with self._owned.write() as connection:
            n = (connection.scalar(sa.select(sa.func.max(table.c.n))) or 0) + 1
            connection.execute(
                table.insert().values(
                    n=n, at_ns=self._clock_ns(), tenant=tenant, made_by=by, what=what, edge=edge,
                    detail=detail[:DETAIL_CHARS_MAX],
                )
            )  # fmt: skip
            if n % SWEPT_EVERY == 0:
                _forget_oldest(connection)

    def page(
        self, tenant: str | None, *, by: str = "", edge: str = "", before: int, limit: int
    ) -> tuple[list[AuditEntry], int | None]:
        """Return entries of a tenant, None: of all, the newest first, and where the next begin.

        At most LOOKED_AT_MAX are looked at: a page may be empty and not the last.
        """
        table = tables.audit
        asked = table.select().where(table.c.n < before).order_by(table.c.n.desc())
        if tenant is not None:
            asked = asked.where(table.c.tenant == tenant)
        with self._owned.read() as connection:
            last = asked.with_only_columns(table.c.n).offset(LOOKED_AT_MAX - 1).limit(1)
            least = connection.scalar(last)
            if least is not None:
                asked = asked.where(table.c.n >= least)
            for column, value in ((table.c.made_by, by), (table.c.edge, edge)):
                if value:
                    asked = asked.where(column == value)
            rows = connection.execute(asked.limit(limit)).all()
        found = [
            AuditEntry(
                n=row.n, time_ns=row.at_ns, tenant=row.tenant, by=row.made_by, what=row.what,
                edge=row.edge, detail=row.detail,
            )
            for row in rows
        ]  # fmt: skip
        return found, found[-1].n if len(found) == limit else least


def _forget_oldest(connection: sa.Connection) -> None:
    table = tables.audit
    counted = sa.select(table.c.tenant, sa.func.count()).group_by(table.c.tenant)
    counts = {tenant: count for tenant, count in connection.execute(counted)}
    most = fair_share(counts.values(), KEPT_MAX)
    for tenant in (one for one, count in counts.items() if count > most):
        theirs = sa.select(table.c.n).where(table.c.tenant == tenant)
        last = connection.scalar(theirs.order_by(table.c.n.desc()).offset(most).limit(1))
        connection.execute(table.delete().where(table.c.tenant == tenant, table.c.n <= last))


def fair_share(counts: Iterable[int], total: int) -> int:
    """Return how many each may keep at most so that all together keep no more than `total`."""
    ordered = sorted(counts)
    for nth, count in enumerate(ordered):
        share = total // (len(ordered) - nth)
        if count > share:
            return share
        total -= count
    return max(ordered, default=0)
