"""Which edges the fleet page lists, in which order, the sentence above them, and what changes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from hubd.api import params
from hubd.api.answers import Edge
from hubd.api.health import RANK
from hubd.web import format

PAGE_ROWS: Final = 200
# The filter's words beside the states themselves.
NEEDS_YOU: Final = "needs you"
STATES: Final = (
    NEEDS_YOU, "connected", "processing", "draining", "stopped", "lost", "disconnected", "invited",
    "revoked",
)  # fmt: skip
SORTS: Final = {
    "worst": "worst first",
    "name": "name",
    "lag": "lag",
    "seen": "last heard",
    "readings": "readings",
}


class FleetQuery(params.Params, frozen=True, kw_only=True):
    """Everything may come empty: that is how a form sends what was not filled in."""

    q: params.Text = ""
    state: params.Text = ""
    sort: Literal["", "worst", "name", "lag", "seen", "readings"] = ""
    page: params.Text = ""

    @property
    def page_number(self) -> int:
        is_number = self.page.isascii() and self.page.isdigit() and len(self.page) < 6
        return max(1, int(self.page)) if is_number else 1


class FleetPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of rows; `found` counts all that the filter lets through."""

    rows: list[Edge]
    found: int
    page: int
    pages: int


def needs_you(edge: Edge) -> bool:
    return edge.health in ("critical", "warning")


def select(edges: Sequence[Edge], query: FleetQuery) -> FleetPage:
    words = query.q.lower().split()
    found = [edge for edge in edges if _is_wanted(edge, query.state) and _has(edge, words)]
    found.sort(key=lambda edge: _place(edge, query.sort or "worst"))
    pages = max(1, -(-len(found) // PAGE_ROWS))
    page = min(query.page_number, pages)
    rows = found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    return FleetPage(rows=rows, found=len(found), page=page, pages=pages)


def _is_wanted(edge: Edge, state: str) -> bool:
    return state in ("", edge.link.state) or (state == NEEDS_YOU and needs_you(edge))


def _has(edge: Edge, words: Sequence[str]) -> bool:
    link = edge.link
    text = f"{link.edge} {link.tenant} {link.address} {link.software} {link.state}".lower()
    return all(word in text for word in words)


def _place(edge: Edge, sort: str) -> tuple[float, str]:
    link = edge.link
    match sort:
        case "worst":
            # Those of one health by their state, so that what has one cause stands together. Who is
            # here keeps its place, whether a batch is under way or not.
            state = "connected" if link.is_connected else link.state
            return RANK[edge.health], f"{STATES.index(state):02}{link.edge}"
        case "lag":
            return -(link.lag_records or 0), link.edge
        case "seen":
            return -(link.known_at_ns or edge.state.stored_at_ns), link.edge
        case "readings":
            return -edge.state.readings, link.edge
    return 0, link.edge


def frame_of(edge: Edge) -> tuple[object, ...]:
    """Return what is shown of an edge beside its cells."""
    link, state = edge.link, edge.state
    known_at_ns = None if link.is_connected else link.known_at_ns
    return (
        link.edge, link.address or link.software, edge.health, link.is_connected, link.since_ns,
        known_at_ns, state.dead, state.lost,
        None if link.is_connected else link.state,
    )  # fmt: skip


def cells_of(edge: Edge) -> Iterator[tuple[str, str]]:
    """Yield what changes by itself of an edge: the name of a cell and its text."""
    link, state = edge.link, edge.state
    lag = "not known" if link.lag_records is None else format.count(link.lag_records)
    yield f"{link.edge} state", link.state
    yield f"{link.edge} lag", lag
    yield f"{link.edge} rtt", format.seconds(link.rtt_s) if link.is_connected else ""
    yield f"{link.edge} clock", format.seconds(link.clock_offset_s) if link.is_connected else ""
    yield f"{link.edge} series", format.count(state.series)
    yield f"{link.edge} readings", format.count(state.readings)


def total_cells(edges: Sequence[Edge], log_head: int | None) -> dict[str, str]:
    """Return the cells of the tiles above the table."""
    online = [edge.link for edge in edges if edge.link.is_connected]
    cells = {
        "online": str(len(online)),
        "readings": format.count(sum(edge.state.readings for edge in edges)),
        "events": format.count(sum(edge.state.events for edge in edges)),
        "lag": format.count(sum(link.lag_records or 0 for link in online)),
    }
    return cells if log_head is None else {**cells, "head": format.count(log_head)}


def sentence(edges: Sequence[Edge]) -> str:
    """Say who needs somebody, and why, before any table."""
    if not edges:
        return "No edge is registered yet."
    bad = [edge for edge in edges if needs_you(edge)]
    if not bad:
        idle = sum(edge.health == "idle" for edge in edges)
        others = f"; {idle} invited or revoked" if idle else ""
        return f"All is well with {len(edges) - idle} of {len(edges)} edges{others}."
    reasons = Counter(_reason(edge) for edge in bad)
    listed = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    verb = "needs" if len(bad) == 1 else "need"
    return f"{len(bad)} of {len(edges)} edges {verb} you: {listed}."


def _reason(edge: Edge) -> str:
    link = edge.link
    if link.state == "disconnected":
        return "not heard since this hub started"
    if not link.is_connected:
        return link.state
    if link.slowed:
        return "slowed down"
    return "behind" if link.lag_records else "with a wrong clock"
