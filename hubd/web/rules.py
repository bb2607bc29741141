"""What the page of an edge's rule chains shows, and what its buttons do."""

import json
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from edgesync.errors import ConfigError
from edgesync.rules.files import sources_of
from edgesync.rules.model import RuleChain
from hubd.api import params, rules
from hubd.api.context import Context
from hubd.api.entity_shapes import Kind
from hubd.api.errors import ApiError, Problem
from hubd.api.rule_shapes import Assign, OneBundle, Run, RunAnswer, Unassign
from hubd.rules.bundles import BundleUnknown, BundleView
from hubd.rules.reports import NodeCounts
from hubd.rules.standing import EdgeRules, standing
from hubd.web import format
from hubd.web.graph import Graph, draw

# By state; what is assigned and not there yet is no mistake.
RULES_TONES: Final = {
    "running": "good", "refused": "critical", "waiting": "warning", "local": "good", "none": "good",
    "kept": "warning",
}  # fmt: skip
GRAPHS_MAX: Final = 20
BUNDLES_KEPT: Final = 16
FAILING_SHOWN: Final = 50
EFFECT_CHARS: Final = 600


class RulesQuery(params.Params, frozen=True, kw_only=True):
    """`shown` is what the page was made of that listens."""

    edge: params.EdgeName
    shown: params.Text = ""


class RulesForm(params.Body, frozen=True, kw_only=True):
    """A button that was pressed, with the fields beside it.

    bundle   its name, a space and its version
    """

    do: Literal["assign", "unassign", "run"] = "run"
    bundle: str = ""
    message: str = ""
    entity: str = ""
    kind: Kind = "device"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a button: what a dry run found, or what was wrong; of no button nothing."""

    form: RulesForm | None = None
    found: RunAnswer | None = None
    problem: Problem | None = None

    def shown(self) -> list[tuple[str, str, str, list[str]]]:
        """Return what each node made of the message: label, problem, relations, effects."""
        return [
            (f"{one['chain']} / {one['node']}", one["problem"],
             ", ".join(out["relation"] for out in one["outs"]),
             [json.dumps(effect, ensure_ascii=False)[:EFFECT_CHARS] for effect in one["effects"]])
            for one in (self.found.visits if self.found is not None else ())
        ]  # fmt: skip


class Drawn(msgspec.Struct, frozen=True):
    """The chains of a bundle; large counts those that are too large to be drawn."""

    label: str
    graphs: tuple[Graph, ...]
    large: tuple[str, ...]


class RulesPage(msgspec.Struct, frozen=True, kw_only=True):
    """All that is on the page.

    drawn   the chains that run, or are to run; None for those of the edge's own
    """

    rules: EdgeRules
    bundles: Sequence[BundleView]
    drawn: Drawn | None
    is_running: bool
    is_connected: bool

    def frame(self) -> tuple[object, ...]:
        """Return what is shown beside the counters."""
        one = self.rules
        failing = [(n.chain, n.id, n.last_error, n.last_error_ns) for n in self.failing()]
        nodes = [(n.chain, n.id, n.failures > 0) for n in one.nodes]
        told = (one.told_ns, one.since_ns, one.source, one.root, one.chains, one.problem)
        bundles = [(each.name, each.version) for each in self.bundles]
        return (
            one.edge, one.state, one.assigned, one.refused, one.bundle, one.version, told, failing,
            nodes, bundles, self.drawn, self.is_running, self.is_connected,
        )  # fmt: skip

    def cells(self) -> dict[str, str]:
        cells = {f"n{at}": counted(one) for at, one in enumerate(self.rules.nodes)}
        cells["counted"] = format.moment(self.rules.counted_ns) if self.rules.counted_ns else "–"
        return cells

    def failing(self) -> list[NodeCounts]:
        """Return the nodes that have failed, the newest failure first."""
        found = [one for one in self.rules.nodes if one.failures]
        return sorted(found, key=lambda one: -one.last_error_ns)[:FAILING_SHOWN]

    def cell_of(self, chain: str, id_: str) -> str:
        """Return the name of the cell with a node's counters, "" while the edge told of none."""
        if not self.is_running:
            return ""
        return next(
            (f"n{at}" for at, one in enumerate(self.rules.nodes)
             if (one.chain, one.id) == (chain, id_)), "",
        )  # fmt: skip

    def cell_named(self, one: NodeCounts) -> str:
        return f"n{self.rules.nodes.index(one)}"

    def has_failed(self, cell: str) -> bool:
        return bool(cell) and self.rules.nodes[int(cell[1:])].failures > 0


class Listed(msgspec.Struct, frozen=True):
    """The newest version of a bundle, how many are kept, and how it stands at the edges."""

    newest: BundleView
    versions: int
    edges: list[EdgeRules]


async def overview(context: Context) -> list[Listed]:
    """Return the bundles that are seen here, each with the edges that are to run it."""
    service = rules.service_of(context)
    kept = await rules.asked(lambda: service.bundles.all(context.tenant))
    assigned = await rules.asked(service.bundles.assignments)
    found: dict[tuple[str, str], Listed] = {}
    for one in kept:  # the newest version of each comes first
        listed = found.setdefault((one.tenant, one.name), Listed(one, 0, []))
        found[one.tenant, one.name] = msgspec.structs.replace(listed, versions=listed.versions + 1)
    for edge in sorted(assigned):
        whose = found.get((assigned[edge].tenant, assigned[edge].bundle))
        if whose is not None and context.sees(edge):
            whose.edges.append(standing(edge, assigned[edge], service.reports.of(edge)))
    return list(found.values())


class RulesViews:
    """What pages show of rule chains; drawings are made once a bundle."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._drawn: dict[tuple[str, str, int], Drawn | None] = {}

    async def of_edge(self, edge: str) -> RulesPage:
        found = await rules.edge_rules(self._context, params.OneEdge(edge=edge))
        view = self._context.hub.edge(edge)
        tenant = rules.tenant_of(rules.of_edge(self._context, edge))
        service = rules.service_of(self._context)
        kept = await rules.asked(lambda: service.bundles.all(tenant))
        is_running = found.source == "hub"
        drawn = None
        if is_running:
            drawn = await self._draw(tenant, found.bundle, found.version)
        elif found.assigned is not None and found.source == "none":
            drawn = await self._draw(tenant, found.assigned.bundle, found.assigned.version)
        return RulesPage(
            rules=found, bundles=kept, drawn=drawn, is_running=is_running,
            is_connected=view is not None and view.is_connected,
        )  # fmt: skip

    async def _draw(self, tenant: str, bundle: str, version: int) -> Drawn | None:
        mine = (tenant, bundle, version)
        if mine not in self._drawn:
            if len(self._drawn) >= BUNDLES_KEPT:
                self._drawn.clear()
            self._drawn[mine] = await rules.asked(lambda: self._made(*mine))
        return self._drawn[mine]

    def _made(self, tenant: str, bundle: str, version: int) -> Drawn | None:
        try:
            kept = rules.service_of(self._context).bundles.bundle(tenant, bundle, version)
            chains = [one.chain for one in sources_of(kept.contents())[0]]
        except (BundleUnknown, ConfigError):  # of a hub that was restored; of an earlier reader
            return None
        graphs = [(chain.name, draw(chain)) for chain in _root_first(chains, kept.root)]
        return Drawn(
            kept.label,
            tuple(graph for _, graph in graphs if graph is not None)[:GRAPHS_MAX],
            tuple(name for name, graph in graphs if graph is None),
        )


def _root_first(chains: Sequence[RuleChain], root: str) -> list[RuleChain]:
    return sorted(chains, key=lambda one: (one.name != root, one.name))


def counted(one: NodeCounts) -> str:
    failed = f" · {format.count(one.failures)} failed" if one.failures else ""
    return f"{format.count(one.messages)}{failed}"


async def assign_rules(context: Context, edge: str, form: RulesForm) -> None:
    """Assign a bundle, or none; raises ApiError."""
    mine = rules.of_edge(context, edge)
    if form.do == "unassign":
        await rules.unassign(mine, params.Nothing(), Unassign(edges=(edge,)))
    else:
        await rules.assign(mine, _chosen(form), Assign(edges=(edge,)))


def path_of_rules(form: RulesForm) -> str:
    """Return the action of the API that does the same as `assign_rules`."""
    return "rules/unassign" if form.do == "unassign" else "rules/assign"


async def run_rules(context: Context, edge: str, form: RulesForm) -> RunAnswer:
    """Return what a dry run finds; raises ApiError."""
    chosen = _chosen(form)
    body: dict[str, Any] = {"bundle": chosen.bundle, "version": chosen.version, "kind": form.kind}
    body["entity"] = form.entity or "device"
    if form.message.strip():
        try:
            body["message"] = msgspec.json.decode(form.message)
        except (ValueError, RecursionError) as error:
            raise ApiError(
                400, f"`message` is no JSON: {error}", field="message",
                remedy='as in {"temperature": 21.5}',
            ) from error  # fmt: skip
    return await rules.run(context, params.OneEdge(edge=edge), _converted(body, Run))


def _chosen(form: RulesForm) -> OneBundle:
    name, _, version = form.bundle.rpartition(" ")
    found: OneBundle = _converted({"bundle": name, "version": _number(version)}, OneBundle)
    return found


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1


def _converted(given: dict[str, Any], shape: type[Any]) -> Any:
    try:
        return msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        raise ApiError(400, str(error), field="bundle", remedy="choose a bundle") from error
