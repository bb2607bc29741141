"""Bundles of rule chains, and which edge is to run which: owned state.

A bundle is checked when it comes, by the reader that the edges have, and is never changed: the next
upload under its name is its next version. Chains of the tenant's other bundles that it leads into
are taken into it, as they are then; so a version means the same for ever, wherever it runs.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from edgesync.errors import ConfigError, ConfigErrors
from edgesync.rules.build import Source, references
from edgesync.rules.bundle import BYTES_MAX, FILES_MAX, PACKED_BYTES_MAX, Bundle
from edgesync.rules.files import Rules, rules_of, sources_of
from hubd.db.dialect import insert
from hubd.errors import EdgeUnknown, HubError
from hubd.owned import Owned, tables
from hubd.registry.tenants import check_tenant

# Of one tenant, and of one bundle besides the versions that edges are to run (I7).
BUNDLES_MAX: Final = 100
VERSIONS_KEPT: Final = 20
FILE_CHARS_MAX: Final = 255


class RulesRefused(HubError):
    """Nothing was changed; `mistakes` has every reason."""

    def __init__(self, mistakes: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(str(one) for one in mistakes))
        self.mistakes = tuple(mistakes)


class BundleUnknown(HubError):
    def __init__(self, name: str, version: int = 0) -> None:
        what = f"bundle {name!r}{f' of version {version}' if version else ''}"
        super().__init__(f"no {what}; `hubd rules list` lists them")
        self.what = what


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader found: the chain that messages begin in, all chains, and what is doubtful.

    taken   files that came from other bundles, and from which version
    """

    root: str
    chains: tuple[str, ...]
    nodes: int
    profiles: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    taken: Mapping[str, str] = {}


class BundleView(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a bundle. edges: that are to run it, by name."""

    tenant: str
    name: str
    version: int
    created_ns: int
    digest: str
    facts: BundleFacts
    edges: tuple[str, ...] = ()


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    tenant: str
    bundle: str
    version: int
    digest: str
    assigned_ns: int


class Bundles:
    """See the module. Methods are synchronous, from any thread; errors are Owned's besides these.

    `upload` may take seconds: scripts are compiled.
    """

    def __init__(self, owned: Owned, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.owned = owned
        self._clock_ns = clock_ns

    # -- bundles ---------------------------------------------------------------------------------

    def upload(
        self, tenant: str, name: str, files: Mapping[str, str], *, root: str = ""
    ) -> BundleView:
        """Keep `files` as the next version of a bundle; what is its newest already stays that.

        root   the chain that messages begin in; empty: the one that says so of itself

        Raises RulesRefused, TenantUnknown.
        """
        with self.owned.read() as connection:
            check_tenant(connection, tenant)
            others = self._newest(connection, tenant)
        before = others.pop(name, None)
        try:
            bundle, facts = checked(files, root, name, others)
        except ConfigError as error:
            mistakes = error.mistakes if isinstance(error, ConfigErrors) else [error]
            raise RulesRefused(mistakes) from error
        if before is not None and _says_the_same(before, bundle):
            return self.one(tenant, name)
        with self.owned.change() as connection:
            newest = self._newest(connection, tenant)
            if name not in newest and len(newest) >= BUNDLES_MAX:
                problem = f"{tenant} has {len(newest)} bundles"
                raise RulesRefused([_refused("name", problem, f"at most {BUNDLES_MAX}")])
            version = newest[name].version + 1 if name in newest else 1
            bundle = msgspec.structs.replace(bundle, version=version)
            connection.execute(tables.rule_bundle.insert().values(
                tenant=tenant, name=name, version=version, created_ns=self._clock_ns(),
                root=bundle.root, files=json.dumps(dict(bundle.files)), digest=bundle.digest(),
                facts=msgspec.json.encode(facts).decode(),
            ))  # fmt: skip
            self._forget_old(connection, tenant, name)
        return self.one(tenant, name)

    def all(self, tenant: str | None = None) -> list[BundleView]:
        """Return every version of a tenant's bundles, of everybody's for None; newest first."""
        table = tables.rule_bundle.c
        columns = [column for column in table if column.name != "files"]
        asked = sa.select(*columns).order_by(table.tenant, table.name, table.version.desc())
        if tenant is not None:
            asked = asked.where(table.tenant == tenant)
        with self.owned.read() as connection:
            rows = connection.execute(asked).all()
            running = self._assignments(connection)
        return [_view(row, running) for row in rows]

    def one(self, tenant: str, name: str, version: int = 0) -> BundleView:
        """Return a version of a bundle, 0 for its newest; raises BundleUnknown."""
        with self.owned.read() as connection:
            row = self._row(connection, tenant, name, version)
            return _view(row, self._assignments(connection))

    def bundle(self, tenant: str, name: str, version: int = 0) -> Bundle:
        """Return what edges are sent; raises BundleUnknown."""
        with self.owned.read() as connection:
            return bundle_of(self._row(connection, tenant, name, version))

    def remove(self, tenant: str, name: str) -> int:
        """Forget all versions of a bundle that no edge is to run; returns how many.

        Raises BundleUnknown, and RulesRefused while edges are to run it.
        """
        table = tables.rule_bundle
        with self.owned.change() as connection:
            self._row(connection, tenant, name, 0)
            edges = [
                one.edge
                for one in self._assignments(connection).values()
                if (one.tenant, one.bundle) == (tenant, name)
            ]
            if edges:
                problem = f"{name} is to run at {', '.join(sorted(edges)[:5])}"
                raise RulesRefused([_refused("name", problem, "`hubd rules unassign` them first")])
            lost = sa.and_(table.c.tenant == tenant, table.c.name == name)
            return connection.execute(table.delete().where(lost)).rowcount

    def _row(
        self, connection: sa.Connection, tenant: str, name: str, version: int
    ) -> sa.Row[Any]:  # fmt: skip
        table = tables.rule_bundle
        asked = table.select().where(table.c.tenant == tenant, table.c.name == name)
        if version:
            asked = asked.where(table.c.version == version)
        row = connection.execute(asked.order_by(table.c.version.desc()).limit(1)).one_or_none()
        if row is None:
            raise BundleUnknown(name, version)
        return row

    def _newest(self, connection: sa.Connection, tenant: str) -> dict[str, Bundle]:
        table = tables.rule_bundle.c
        newest = (
            sa.select(table.name, sa.func.max(table.version).label("version"))
            .where(table.tenant == tenant)
            .group_by(table.name)
            .subquery()
        )
        asked = tables.rule_bundle.select().join(
            newest, sa.and_(table.name == newest.c.name, table.version == newest.c.version)
        )
        rows = connection.execute(asked.where(table.tenant == tenant).order_by(table.name))
        return {row.name: bundle_of(row) for row in rows}

    def _forget_old(self, connection: sa.Connection, tenant: str, name: str) -> None:
        """Forget what is older than the newest versions, and what no edge is to run."""
        table, whose = tables.rule_bundle, tables.rule_assignment.c
        mine = sa.and_(table.c.tenant == tenant, table.c.name == name)
        versions = list(
            connection.scalars(
                sa.select(table.c.version).where(mine).order_by(table.c.version.desc())
            )
        )
        used = set(
            connection.scalars(
                sa.select(whose.version).where(whose.tenant == tenant, whose.bundle == name)
            )
        )
        if gone := [one for one in versions[VERSIONS_KEPT:] if one not in used]:
            connection.execute(table.delete().where(mine, table.c.version.in_(gone)))

    # -- who runs what ---------------------------------------------------------------------------

    def assign(
        self, tenant: str, name: str, edges: Sequence[str], *, version: int = 0
    ) -> list[Assignment]:
        """Have edges run a version of a bundle, 0 for its newest; all of them or none.

        Raises BundleUnknown, EdgeUnknown for one that is not the tenant's.
        """
        table = tables.rule_assignment
        with self.owned.change() as connection:
            row = self._row(connection, tenant, name, version)
            self._check_edges(connection, tenant, edges)
            connection.execute(table.delete().where(table.c.edge.in_(edges)))
            now_ns = self._clock_ns()
            made = [
                Assignment(edge=edge, tenant=tenant, bundle=name, version=row.version,
                           digest=row.digest, assigned_ns=now_ns)
                for edge in dict.fromkeys(edges)
            ]  # fmt: skip
            connection.execute(table.insert(), [msgspec.structs.asdict(one) for one in made])
        return made

    def unassign(self, tenant: str, edges: Sequence[str]) -> list[str]:
        """Let edges go back to what they have of their own; returns those that had a bundle.

        An edge of which this registry knows nothing may run what one before it assigned: that is
        over as well. Raises EdgeUnknown for one that is not the tenant's.
        """
        table, told = tables.rule_assignment, tables.rule_delivery
        with self.owned.change() as connection:
            self._check_edges(connection, tenant, edges)
            mine = table.c.edge.in_(edges)
            had = list(connection.scalars(sa.select(table.c.edge).where(mine)))
            connection.execute(table.delete().where(mine))
            nothing = [
                {"edge": edge, "digest": "", "seq": 0, "sent_ns": 0}
                for edge in dict.fromkeys(edges)
            ]
            if nothing:
                connection.execute(insert(told).on_conflict_do_nothing(), nothing)
        return sorted(had)

    def has_decided(self, edge: str) -> bool:
        """Return whether this registry knows what an edge is to run, if that is nothing, too."""
        told, wanted = tables.rule_delivery.c, tables.rule_assignment.c
        either = sa.or_(
            sa.exists().where(told.edge == edge), sa.exists().where(wanted.edge == edge)
        )
        with self.owned.read() as connection:
            return bool(connection.scalar(sa.select(either)))

    def assignments(self) -> dict[str, Assignment]:
        """Return what edges are to run, by edge."""
        with self.owned.read() as connection:
            return self._assignments(connection)

    def _assignments(self, connection: sa.Connection) -> dict[str, Assignment]:
        rows = connection.execute(tables.rule_assignment.select())
        return {row.edge: Assignment(**row._mapping) for row in rows}

    def _check_edges(
        self, connection: sa.Connection, tenant: str, edges: Sequence[str]
    ) -> None:  # fmt: skip
        known = tables.edge.c
        asked = sa.select(known.name).where(known.tenant == tenant, known.revoked_ns.is_(None))
        mine = set(connection.scalars(asked))
        for edge in edges:
            if edge not in mine:
                raise EdgeUnknown(edge)


def checked(
    files: Mapping[str, str], root: str, name: str, others: Mapping[str, Bundle]
) -> tuple[Bundle, BundleFacts]:
    """Return a bundle of `files` and of the chains they lead into; raises ConfigError with all
    that is wrong.
    """
    _check_files(files)
    sources, _ = sources_of({file: text.encode() for file, text in files.items()})
    taken = _taken(sources, others)
    everything = {**files, **{one.place: one.text for one in taken}}
    bundle = Bundle(name=name, version=1, files=dict(sorted(everything.items())))
    _check_size(bundle)
    found = rules_of(bundle.contents(), root=root or _own_root(sources), is_here=False)
    facts = _facts(found, {one.place: one.origin for one in taken})
    return msgspec.structs.replace(bundle, root=facts.root), facts


def _facts(found: Rules, taken: Mapping[str, str]) -> BundleFacts:
    chains = found.loaded.chains
    return BundleFacts(
        root=chains.root, chains=tuple(chains.firsts), nodes=len(chains.nodes),
        profiles=tuple(sorted(found.profiles)), doubts=found.loaded.doubts, taken=taken,
    )  # fmt: skip


def _check_files(files: Mapping[str, str]) -> None:
    if not files or len(files) > FILES_MAX:
        raise _refused("files", f"are {len(files)}", f"1 to {FILES_MAX} exports as JSON")
    for file in files:
        # A slash is in the names of what is taken from other bundles.
        if not file.isprintable() or "/" in file or not 1 <= len(file) <= FILE_CHARS_MAX:
            problem = f"has one called {file[:40]!r}"
            remedy = f"1 to {FILE_CHARS_MAX} characters without a slash"
            raise _refused("files", problem, remedy)


def _check_size(bundle: Bundle) -> None:
    size = sum(len(text) for text in bundle.files.values())
    if size > BYTES_MAX:
        raise _refused("files", f"have {size} characters", f"at most {BYTES_MAX}")
    if (size := len(bundle.pack())) > PACKED_BYTES_MAX:
        raise _refused("files", f"have {size} bytes, packed", f"at most {PACKED_BYTES_MAX}")


def _own_root(sources: Sequence[Source]) -> str:
    """Return the root of what was uploaded, for what is taken along may say that it is one, too."""
    roots = [one.chain.name for one in sources if one.chain.is_root]
    names = [one.chain.name for one in sources]
    chosen = roots if len(names) > 1 else names
    return chosen[0] if len(chosen) == 1 else ""


class _Taken(NamedTuple):
    """A file of another bundle: the name it gets, its text, whose it is, and its chains."""

    place: str
    text: str
    origin: str
    chains: list[Source]


def _taken(sources: Sequence[Source], others: Mapping[str, Bundle]) -> list[_Taken]:
    """Return the files of other bundles whose chains these lead into, and theirs in turn."""
    offered: dict[str, _Taken] = {}
    for bundle in others.values():
        for file, text in bundle.files.items():
            if "/" not in file:
                with contextlib.suppress(ConfigError):  # read by an earlier version, say
                    chains, _ = sources_of({file: text.encode()})
                    place = f"{bundle.name}@{bundle.version}/{file}"
                    one = _Taken(place, text, bundle.label, chains)
                    offered |= {name: one for name in _names(chains) if name not in offered}
    known = _names(sources)
    taken: dict[str, _Taken] = {}
    todo = list(sources)
    while todo:
        for names in references(todo.pop().chain):
            found = next((offered[name] for name in names if name in offered), None)
            if found is not None and not known.intersection(names):
                taken[found.place] = found
                todo += found.chains
                known |= _names(found.chains)
    return list(taken.values())


def _names(sources: Sequence[Source]) -> set[str]:
    return {name for one in sources for name in (one.chain.name, *one.chain.ids)}


def _says_the_same(before: Bundle, bundle: Bundle) -> bool:
    return (before.root, dict(before.files)) == (bundle.root, dict(bundle.files))


def bundle_of(row: sa.Row[Any]) -> Bundle:
    return Bundle(
        name=row.name, version=row.version, root=row.root, files=json.loads(row.files)
    )  # fmt: skip


def _view(row: sa.Row[Any], running: Mapping[str, Assignment]) -> BundleView:
    mine = (row.tenant, row.name, row.version)
    return BundleView(
        tenant=row.tenant, name=row.name, version=row.version, created_ns=row.created_ns,
        digest=row.digest, facts=msgspec.json.decode(row.facts, type=BundleFacts),
        edges=tuple(sorted(
            one.edge for one in running.values() if (one.tenant, one.bundle, one.version) == mine
        )),
    )  # fmt: skip


def _refused(field: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError(file="bundle", field=field, problem=problem, remedy=remedy)
