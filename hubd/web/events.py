"""What the page of events shows: what went between edges and hub, and what did not get through."""

from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET

from edgesync.model import Action, EventType
from hubd.api import fleet, params, rpc, series
from hubd.api.answers import FleetEvents, WaitingRecord
from hubd.api.context import Context, LinkEvent
from hubd.api.errors import ApiError, descriptions, from_validation
from hubd.state import views
from hubd.state.views import SkipRow

LINKS: Final = 50
WAITING: Final = 50
SKIPS: Final = 20
# What a form lets choose from, by field.
CHOICES: Final = {
    "type": [kind.name.lower() for kind in EventType],
    "action": [action.name.lower() for action in Action],
    "lane": ["critical", "normal", "bulk"],
    "status": ["stored", "dead", "lost", "unreadable"],
}
ASKED: Final = (
    "edge", "type", "action", "entity", "lane", "status", "text", "from", "to", "after",
)  # fmt: skip


class EventsQuery(params.Params, frozen=True, kw_only=True):
    """Everything may come empty: that is how a form sends what was not filled in."""

    edge: params.Text = ""
    type: params.Text = ""
    action: params.Text = ""
    entity: params.Text = ""
    lane: params.Text = ""
    status: params.Text = ""
    text: params.Text = ""
    from_: params.Text = msgspec.field(name="from", default="")
    to: params.Text = ""
    after: params.Text = ""
    shown: params.Text = ""

    def filled(self) -> dict[str, str]:
        """Return what was filled in, by its name."""
        given = msgspec.to_builtins(self)
        return {name: given[name] for name in ASKED if given.get(name, UNSET)}

    def search(self, **changes: str) -> str:
        """Return the same question as part of an address, with these changes; "" for without."""
        wanted = {**self.filled(), **changes}
        return urlencode({name: value for name, value in wanted.items() if value})


class EventsFound(msgspec.Struct, frozen=True):
    """What is on the page.

    waiting    what the hub has for edges, which have not said that they have it
    is_more    whether more of that waits than is listed
    unknown    why that is not known now; empty when it is
    skips      entries of the log that a projector could not use
    """

    events: FleetEvents
    waiting: list[WaitingRecord]
    is_more: bool
    unknown: str
    skips: list[SkipRow]
    links: list[LinkEvent]

    @property
    def edges(self) -> list[str]:
        """Return the edges that something waits for, of what is listed."""
        return sorted({one.edge for one in self.waiting})


async def events_found(context: Context, query: EventsQuery) -> EventsFound:
    """Answer a question of the page; raises ApiError."""
    wanted = _asked(query)
    found = await series.fleet_events(context, wanted)
    seen = fleet.edges_of(context)
    skips = await context.state.read(lambda c: views.skips(c, SKIPS, seen))
    links = await fleet.link_events(
        context, params.LinkEventsPage(edge=query.edge or None, limit=LINKS)
    )
    waiting, is_more, unknown = list[WaitingRecord](), False, ""
    if context.rpc is not None:
        try:
            asked = params.DownlinkPage(edge=query.edge or None, limit=WAITING)
            page = await rpc.waiting(context, asked)
            waiting, is_more = page.records, page.next is not None
        except ApiError as error:
            if error.status != 503:
                raise
            unknown = str(error)
    return EventsFound(found, waiting, is_more, unknown, skips, list(links.events))


def _asked(query: EventsQuery) -> params.FleetEventsPage:
    given: dict[str, Any] = query.filled()
    try:
        return msgspec.convert(given, params.FleetEventsPage)
    except msgspec.ValidationError as error:
        raise from_validation(error, descriptions(params.FleetEventsPage)) from error
