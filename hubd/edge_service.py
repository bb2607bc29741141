"""Edges as a whole: what the API, HubClient and `hubd edge` do with them, in one place.

Whose an edge is and what it is called is in the registry; what it is to be told is in the journal
of its downlink, appended in the transaction of what caused it.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import trio

from edgesync.errors import StoreVersion
from edgesync.model import Action, EntityType, Event, EventType, Lane
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import BODY_BYTES_MAX
from hubd.errors import EdgeRefused, OwnedUnusable
from hubd.owned.threads import in_thread
from hubd.registry import Invitation, RegisteredEdge, Registry
from hubd.rpc.calls import encoded

KIND: Final = "edge"


class EdgeToken(msgspec.Struct, frozen=True, kw_only=True):
    """What lets a gateway join as this edge, once; nobody can read it again."""

    edge: str
    token: str
    expires_ns: int


class EdgeService:
    """See the module. Raises HubError: those of the registry, and DownlinkFull.

    token_maker  returns what makes the one line of an invitation, see `enrol.token_maker`
    valid_s      how long a token is good
    on_changed   is awaited after a change of the registry, for the hub to follow at once
    """

    def __init__(
        self,
        registry: Registry,
        delivery: Delivery,
        *,
        token_maker: Callable[[], Callable[[Invitation], str]],
        valid_s: float,
        clock_ns: Callable[[], int],
    ) -> None:
        self._edges = registry.edges
        self._enrolments = registry.enrolments
        self._delivery = delivery
        self._token_maker = token_maker
        self._valid_s = valid_s
        self._clock_ns = clock_ns
        self.on_changed: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def find(self, edge: str) -> RegisteredEdge:
        return await in_thread(self._edges.one, edge)

    async def save(
        self, edge: str, tenant: str, changes: Mapping[str, Any]
    ) -> tuple[RegisteredEdge, bool]:
        """Create an edge, or change what is given of it; returns it, and whether it is new."""
        save = partial(self._edges.save, edge, tenant=tenant, **changes)
        is_new = await in_thread(save)
        await self._changed()
        return await self.find(edge), is_new

    async def invite(self, edge: str, tenant: str) -> EdgeToken:
        """Return a token for an edge there is; its present key is good until that is used.

        Raises ValueError for a hub without an address: the token before stays good then.
        """
        make_token = self._token_maker()
        invite = partial(
            self._enrolments.invite, edge, tenant=tenant, valid_s=self._valid_s, again=True
        )
        invitation = await in_thread(invite)
        await self._changed()
        token = make_token(invitation)
        return EdgeToken(edge=edge, token=token, expires_ns=invitation.expires_ns)

    async def assign(self, edge: str, customer: str, by: str) -> RegisteredEdge:
        """Assign an edge to a customer, "" for none; the edge is told with an event."""
        tails = list[int]()

        def tell(connection: sa.Connection, before: str) -> None:
            event = customer_event(edge, customer, before, by, self._clock_ns())
            journal = self._delivery.journal
            tails.append(journal.append(connection, edge, Lane.NORMAL, [encoded(event)]))

        await in_thread(self._edges.assign, edge, customer, tell)
        for tail in tails:
            await self._delivery.grown(edge, Lane.NORMAL, tail)
        await self._changed()
        return await self.find(edge)

    async def forget(self, edge: str) -> None:
        """Revoke an edge for good and take it out of every list; what it sent stays in the log."""
        await in_thread(self._edges.forget, edge)
        await self._changed()

    async def tell(self, edge: str, events: Sequence[Event], lane: Lane) -> int:
        """Store events for an edge, all or none; returns the seq of the last."""
        raws = [encoded(event) for event in events]
        if any(len(event.body) > BODY_BYTES_MAX for event in events):
            raise EdgeRefused("body", "is too long", f"at most {BODY_BYTES_MAX} bytes of JSON")
        tail = await in_thread(self._delivery.journal.send, edge, lane, raws)
        await self._delivery.grown(edge, lane, tail)
        return tail

    async def _changed(self) -> None:
        with contextlib.suppress(OwnedUnusable, StoreVersion):  # it is looked at again soon
            await self.on_changed()


def customer_event(edge: str, customer: str, before: str, by: str, now_ns: int) -> Event:
    """Return what an edge is told of its customer."""
    action = Action.ASSIGNED_TO_CUSTOMER if customer else Action.UNASSIGNED_FROM_CUSTOMER
    body = {"kind": KIND, "customer": customer or before, "by": by}
    return Event(
        type=EventType.ENTITY, action=action, entity_type=EntityType.EDGE, entity_id=edge,
        body=msgspec.json.encode(body), time_ns=now_ns, created_ns=now_ns,
    )  # fmt: skip
