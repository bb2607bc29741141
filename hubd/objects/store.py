"""Objects that the hub keeps: files named by their SHA-256, and owned state that says whose.

A file is written beside its place, synced, and renamed, so what has a name is whole; the row that
names it comes after it. Tenants share files of equal contents and nothing else. A file that no row
names goes an hour later (`sweep`): somebody may be about to name it.
"""

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import sqlalchemy as sa

from edgesync.objects.model import NAME_PATTERN as OBJECT_NAME_PATTERN
from edgesync.objects.model import OBJECTS_MAX, Listing, ObjectRef, listing_of
from edgesync.store.directory import free_bytes, sync_directory
from hubd.errors import EdgeUnknown, HubError
from hubd.objects.settings import ObjectsSection
from hubd.owned import Owned, tables
from hubd.registry.tenants import check_tenant

FOLDER: Final = "objects"
NAME_PATTERN: Final = OBJECT_NAME_PATTERN.replace(r"\Z", "$")  # as JSON Schema has it
CHUNK_BYTES: Final = 256 * 1024
# Of one tenant; what an edge is to hold is bounded in `edgesync.objects.model` (I7).
TENANT_OBJECTS_MAX: Final = 1000
DRAFT: Final = ".draft"
UNNAMED_S: Final = 3600.0


class ObjectRefused(HubError):
    """Nothing was changed. `field` is what was wrong, `remedy` what would be taken."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy


class ObjectUnknown(HubError):
    def __init__(self, name: str) -> None:
        super().__init__(f"no object {name!r}; `hubd object list` lists them")
        self.name = name


class ObjectView(msgspec.Struct, frozen=True, kw_only=True):
    """An object, and the edges that are to hold it, by name."""

    tenant: str
    name: str
    sha256: str
    size: int
    created_ns: int
    edges: tuple[str, ...] = ()


class Draft:
    """Bytes on their way: a file of its own until `name` names it. Raises OSError."""

    def __init__(self, folder: Path, settings: ObjectsSection) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.size = 0
        self._settings = settings
        self._path = folder / f"{DRAFT}{secrets.token_hex(8)}"
        self._digest = hashlib.sha256()
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(fd, "wb")

    def write(self, data: bytes) -> None:
        """Raises ObjectRefused for more than an object may have, or the disk has room for."""
        self.size += len(data)
        most, reserve = int(self._settings.size_max), int(self._settings.reserve)
        if self.size > most:
            remedy = "make it smaller, or raise `size_max` under [objects] in hub.toml"
            raise ObjectRefused("size", f"it has more than {most} bytes", remedy)
        if (free := free_bytes(self._path.parent)) < reserve + len(data):
            problem = f"the disk has {free} bytes free, and keeps {reserve}"
            remedy = "make room on it, or lower `reserve` under [objects] in hub.toml"
            raise ObjectRefused("size", problem, remedy)
        self._digest.update(data)
        self._file.write(data)

    def sync(self) -> str:
        """Have the bytes on the disk; returns their SHA-256. Raises ObjectRefused for none."""
        if not self.size:
            raise ObjectRefused("size", "it is empty", "an object has a byte at least")
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def name(self, sha256: str) -> None:
        """Give the file the name that `sync` returned, durably."""
        self._path.replace(self._path.with_name(sha256))  # the same bytes, if it is there
        sync_directory(self._path.parent)

    def close(self) -> None:
        """Remove what was not finished."""
        try:
            self._file.close()
        finally:  # a full disk refuses what was not written yet once more
            self._path.unlink(missing_ok=True)


class Objects:
    """See the module. Methods are synchronous, from any thread; errors are Owned's besides these.

    folder   of the files; made when it is needed
    """

    def __init__(
        self,
        owned: Owned,
        folder: Path,
        settings: ObjectsSection | None = None,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.owned = owned
        self.folder = folder
        self.settings = settings or ObjectsSection()
        self._clock_ns = clock_ns

    # -- objects ---------------------------------------------------------------------------------

    def put(self, tenant: str, name: str, source: BinaryIO) -> ObjectView:
        """Keep the bytes of `source` under a name, in place of what had it; durable on return.

        Edges that are to hold the name are told of the new bytes. Raises ObjectRefused,
        TenantUnknown, OSError.
        """
        with self.owned.read() as connection:
            check_tenant(connection, tenant)
        with contextlib.closing(self.draft()) as draft:
            while chunk := source.read(CHUNK_BYTES):
                draft.write(chunk)
            return self.keep(tenant, name, draft)

    def draft(self) -> "Draft":
        """Return where bytes are written to that `keep` takes; close it in any case."""
        return Draft(self.folder, self.settings)

    def keep(self, tenant: str, name: str, draft: "Draft") -> ObjectView:
        """Do as `put` does, with what a draft has."""
        sha256, size = draft.sync(), draft.size
        table = tables.object_
        with self.owned.change() as connection:
            check_tenant(connection, tenant)
            self._check_room(connection, tenant, name, sha256, size)
            draft.name(sha256)  # what is refused leaves nothing
            mine = sa.and_(table.c.tenant == tenant, table.c.name == name)
            connection.execute(table.delete().where(mine))
            connection.execute(table.insert().values(
                tenant=tenant, name=name, sha256=sha256, size=size, created_ns=self._clock_ns(),
            ))  # fmt: skip
        return self.one(tenant, name)

    def _check_room(
        self, connection: sa.Connection, tenant: str, name: str, sha256: str, size: int
    ) -> None:
        table = tables.object_.c
        asked = sa.select(table.name, table.sha256, table.size).where(table.tenant == tenant)
        others = [row for row in connection.execute(asked) if row.name != name]
        if len(others) >= TENANT_OBJECTS_MAX:
            problem = f"{tenant} has {len(others)} objects, as many as may be"
            raise ObjectRefused("name", problem, "remove others first")
        used = sum({row.sha256: row.size for row in others if row.sha256 != sha256}.values())
        most = int(self.settings.tenant_max)
        if used + size > most:
            problem = f"it has {size} bytes, and {used} of {most} of {tenant} are used"
            remedy = "remove others first, or raise `tenant_max` under [objects] in hub.toml"
            raise ObjectRefused("size", problem, remedy)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def all(self, tenant: str | None = None) -> list[ObjectView]:
        """Return a tenant's objects by name, everybody's for None."""
        table = tables.object_
        asked = table.select().order_by(table.c.tenant, table.c.name)
        if tenant is not None:
            asked = asked.where(table.c.tenant == tenant)
        with self.owned.read() as connection:
            return self._views(connection, asked)

    def one(self, tenant: str, name: str) -> ObjectView:
        """Raises ObjectUnknown."""
        with self.owned.read() as connection:
            return self._one(connection, tenant, name)

    def _one(self, connection: sa.Connection, tenant: str, name: str) -> ObjectView:
        table = tables.object_
        asked = table.select().where(table.c.tenant == tenant, table.c.name == name)
        found = self._views(connection, asked)
        if not found:
            raise ObjectUnknown(name)
        return found[0]

    def _views(self, connection: sa.Connection, asked: sa.Select[Any]) -> list[ObjectView]:
        whose = tables.object_assignment
        rows = connection.execute(whose.select().where(whose.c.is_wanted == 1))
        edges: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            edges.setdefault((row.tenant, row.name), []).append(row.edge)
        return [
            ObjectView(**row._mapping, edges=tuple(sorted(edges.get((row.tenant, row.name), ()))))
            for row in connection.execute(asked)
        ]

    def remove(self, tenant: str, name: str) -> ObjectView:
        """Forget an object; raises ObjectUnknown, and ObjectRefused while edges are to hold it."""
        table = tables.object_
        with self.owned.change() as connection:
            found = self._one(connection, tenant, name)
            if found.edges:
                problem = f"{name} is assigned to {', '.join(found.edges[:5])}"
                raise ObjectRefused("name", problem, "`hubd object unassign` it first")
            connection.execute(table.delete().where(table.c.tenant == tenant, table.c.name == name))
        return found

    def sweep(self) -> int:
        """Remove files that no object has named for an hour; returns how many."""
        with self.owned.read() as connection:
            named = set(connection.scalars(sa.select(tables.object_.c.sha256)))
        gone = 0
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    age_s = time.time() - path.stat().st_mtime
                    if path.name not in named and age_s > UNNAMED_S:
                        path.unlink()
                        gone += 1
        return gone

    # -- who holds what --------------------------------------------------------------------------

    def assign(self, tenant: str, name: str, edges: Sequence[str]) -> list[str]:
        """Have edges hold an object, an empty list for all of the tenant's: all of them or none.

        Returns which. Raises ObjectUnknown, ObjectRefused, EdgeUnknown for one that is not the
        tenant's.
        """
        with self.owned.change() as connection:
            self._one(connection, tenant, name)
            chosen = self._edges(connection, tenant, edges)
            if full := self._full(connection, tenant, name, chosen, is_wanted=True):
                problem = f"{full[0]} is to hold {full[1]} objects, as many as may be"
                raise ObjectRefused("edges", problem, "unassign others of it first")
            self._note(connection, tenant, name, chosen, is_wanted=True)
        return chosen

    def unassign(self, tenant: str, name: str, edges: Sequence[str]) -> list[str]:
        """Have edges remove what they hold under a name, an empty list for all of the tenant's.

        The hub need not know the object: an edge may hold what this hub has lost. Raises
        EdgeUnknown, ObjectRefused.
        """
        with self.owned.change() as connection:
            chosen = self._edges(connection, tenant, edges)
            if full := self._full(connection, tenant, name, chosen, is_wanted=False):
                problem = f"{full[0]} has {full[1]} names to remove and has not done so"
                raise ObjectRefused("edges", problem, "wait until it is connected")
            self._note(connection, tenant, name, chosen, is_wanted=False)
        return chosen

    def _full(
        self, connection: sa.Connection, tenant: str, name: str, edges: Sequence[str], *,
        is_wanted: bool,
    ) -> tuple[str, int] | None:  # fmt: skip
        """Return one of the edges that has no place for one more name, and how many it has."""
        table = tables.object_assignment.c
        asked = (
            sa.select(table.edge, sa.func.count())
            .where(table.tenant == tenant, table.name != name, table.is_wanted == int(is_wanted))
            .group_by(table.edge)
        )
        for edge, count in connection.execute(asked):
            if edge in edges and count >= OBJECTS_MAX:
                return edge, count
        return None

    def _note(
        self, connection: sa.Connection, tenant: str, name: str, edges: Sequence[str], *,
        is_wanted: bool,
    ) -> None:  # fmt: skip
        table = tables.object_assignment
        connection.execute(table.delete().where(table.c.name == name, table.c.edge.in_(edges)))
        rows = [
            {"edge": edge, "name": name, "tenant": tenant, "is_wanted": int(is_wanted),
             "changed_ns": self._clock_ns()}
            for edge in edges
        ]  # fmt: skip
        if rows:
            connection.execute(table.insert(), rows)

    def _edges(
        self, connection: sa.Connection, tenant: str, edges: Sequence[str]
    ) -> list[str]:  # fmt: skip
        known = tables.edge.c
        asked = sa.select(known.name).where(known.tenant == tenant, known.revoked_ns.is_(None))
        mine = set(connection.scalars(asked))
        for edge in edges:
            if edge not in mine:
                raise EdgeUnknown(edge)
        return sorted(set(edges) or mine)

    def removed(self, edge: str, names: Sequence[str]) -> None:
        """Note that an edge has removed what it was to remove."""
        table = tables.object_assignment
        mine = sa.and_(table.c.edge == edge, table.c.name.in_(names), table.c.is_wanted == 0)
        with self.owned.change() as connection:
            connection.execute(table.delete().where(mine))

    def listings(self) -> Mapping[str, Listing]:
        """Return what edges are to hold and to remove, by edge; of those that have anything."""
        whose, table = tables.object_assignment, tables.object_
        asked = sa.select(whose, table.c.sha256, table.c.size).outerjoin(
            table, sa.and_(table.c.tenant == whose.c.tenant, table.c.name == whose.c.name)
        )
        wanted: dict[str, list[ObjectRef]] = {}
        removed: dict[str, list[str]] = {}
        with self.owned.read() as connection:
            for row in connection.execute(asked):
                if not row.is_wanted:
                    removed.setdefault(row.edge, []).append(row.name)
                elif row.sha256 is not None:
                    ref = ObjectRef(row.name, row.sha256, row.size)
                    wanted.setdefault(row.edge, []).append(ref)
        return {
            edge: listing_of(wanted.get(edge, ()), removed.get(edge, ()))
            for edge in {*wanted, *removed}
        }
