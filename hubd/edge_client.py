"""What HubClient does with edges as a whole, and with events for them."""

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from hubd.api.answers import Downlink, Edge, Edges, Events, GivenUp, WaitingRecord
from hubd.api.edge_shapes import EdgeDetails, EventSaved, Forgotten, Missing
from hubd.edge_service import EdgeToken
from hubd.rpc.calls import CallView
from hubd.state.views import EventRow

T = TypeVar("T")


class EdgeMethods:
    """Methods of HubClient; each change is in the hub's registry when it returns (I1)."""

    async def _get(self, path: str, shape: type[T], **query: str) -> T:
        raise NotImplementedError

    async def _post(self, path: str, body: dict[str, Any], shape: type[T]) -> T:
        raise NotImplementedError

    # -- edges -------------------------------------------------------------------------------

    async def edges(
        self, *, site: str = "", type: str = "", customer: str = "", state: str = "", text: str = ""
    ) -> list[Edge]:
        """Return edges with their link, health and what the hub holds of them, by name."""
        found: list[Edge] = []
        after: str | None = ""
        while after is not None:
            page = await self._get(
                "edges", Edges, site=site, type=type, customer=customer, state=state, text=text,
                after=after,
            )  # fmt: skip
            found += page.edges
            after = page.next
        return found

    async def edge(self, edge: str) -> Edge:
        """Return one edge."""
        return await self._get(_of(edge), Edge, limit="")

    async def save_edge(
        self,
        edge: str,
        *,
        label: str | None = None,
        type: str | None = None,
        site: str | None = None,
        prefixes: Sequence[str] | None = None,
    ) -> EdgeDetails:
        """Create an edge, or change what is given of it; its name stays for ever."""
        said = {"label": label, "type": type, "site": site}
        body: dict[str, Any] = {"edge": edge}
        body |= {name: value for name, value in said.items() if value is not None}
        if prefixes is not None:
            body["prefixes"] = list(prefixes)
        return await self._post("edges", body, EdgeDetails)

    async def edge_token(self, edge: str) -> EdgeToken:
        """Make a token that lets a gateway join as this edge, once."""
        return await self._post(_of(edge, "token"), {}, EdgeToken)

    async def delete_edge(self, edge: str) -> Forgotten:
        """Revoke an edge for good and take it out of every list; what it sent stays."""
        return await self._post(_of(edge, "forget"), {"confirm": edge}, Forgotten)

    async def assign_edge(self, edge: str, customer: str) -> EdgeDetails:
        """Assign an edge to a customer; the edge is told."""
        return await self._post(_of(edge, "customer"), {"customer": customer}, EdgeDetails)

    async def unassign_edge(self, edge: str) -> EdgeDetails:
        """Take an edge from its customer; the edge is told."""
        return await self.assign_edge(edge, "")

    async def sync_edge(
        self, edge: str, *, full: bool = True, ttl_s: float = 3600.0, wait_s: float = 0.0
    ) -> CallView:
        """Have an edge sync now, or when it is back; its `answer` says what came of that."""
        body = {"full": full, "ttl_s": ttl_s, "wait_s": wait_s}
        return await self._post(_of(edge, "sync"), body, CallView)

    async def missing(self, edge: str) -> Missing:
        """Return what of an edge waits for something that is missing: entities, rule chains."""
        return await self._get(_of(edge, "missing"), Missing, limit="")

    # -- events for edges --------------------------------------------------------------------

    async def save_event(
        self,
        edge: str,
        action: str,
        *,
        entity: str = "",
        kind: str = "device",
        type: str = "",
        body: dict[str, Any] | None = None,
    ) -> EventSaved:
        """Have something happen at an edge, such as `save_event("barn", "deleted", entity="a")`."""
        asked = {"action": action, "entity": entity, "kind": kind, "type": type, "body": body or {}}
        return await self._post(_of(edge, "events"), asked, EventSaved)

    async def events(self, edge: str, *, limit: int = 500, **query: str) -> list[EventRow]:
        """Return events of an edge, the newest first; `query` is that of the API."""
        found: list[EventRow] = []
        after: str | None = ""
        while after is not None and len(found) < limit:
            asked = {**query, "limit": str(min(limit - len(found), 500)), "after": after}
            page = await self._get(_of(edge, "events"), Events, **asked)
            found += page.events
            after = page.next
        return found

    async def waiting_events(self, edge: str) -> list[WaitingRecord]:
        """Return what the hub has stored for an edge and the edge has not yet."""
        found: list[WaitingRecord] = []
        after: str | None = ""
        while after is not None:
            page = await self._get("downlink", Downlink, edge=edge, after=after)
            found += page.records
            after = page.next
        return found

    async def clean_events(self, edge: str, older_than_s: float) -> int:
        """Give up what has waited for an edge for so long; returns how many records."""
        body = {"older_than_s": older_than_s}
        return (await self._post(_of(edge, "downlink/clean"), body, GivenUp)).records


def _of(edge: str, what: str = "") -> str:
    return f"edges/{quote(edge, safe='')}{'/' * bool(what)}{what}"
