"""The protocol with one rule left out: some seed must find each out, or the test is blind."""

from collections.abc import Mapping

import msgspec

from edgesync_transport import receiver as hub_core
from edgesync_transport.lanes.sender import LaneSender
from edgesync_transport.link import Peer
from edgesync_transport.messages import Message, Welcome
from edgesync_transport.receiver import DownLane, DownOffer, Receiver, Session
from edgesync_transport.sender import Effect, Sender
from hubd.log.base import Append, Appended, NotAppended
from hubd.log.book import Book, Changes
from tests.sim.world import Rules


class ChainlessLane(LaneSender):
    def divergence(self, floor: int, chain: int) -> str:
        return "" if self.start <= floor <= self.tail else "positions"


class NoChain(Sender):
    """R4: believes that equal positions mean equal histories."""

    lane_sender = ChainlessLane


class NoNonce(Sender):
    """R3: takes any welcome, also that of an older greeting."""

    def _welcomed(self, welcome: Welcome, now: float) -> list[Effect]:
        self._nonce = welcome.nonce
        return super()._welcomed(welcome, now)


class ForeignAcks(Sender):
    """R2: takes acks of any session and incarnation."""

    def _is_ours(self, epoch: int, incarnation: bytes) -> bool:
        return bool(self.epoch)


class SilentLane(LaneSender):
    def declare_gap(self, now: float) -> list[Effect]:
        self.sent = self.reached = self.trimmed
        return []


class SilentGap(Sender):
    """R8: goes on after what is not retained any more without a word."""

    lane_sender = SilentLane


class ChainlessBook(Book):
    """R4 at the hub: stores whatever continues by number."""

    def decide(self, asked: Append, changes: Changes) -> Appended | NotAppended:
        key = (asked.edge, asked.incarnation, int(asked.lane))
        stands = self.lane(key)
        if stands is not None and asked.first == stands.floor + 1:
            asked = msgspec.structs.replace(asked, prev_chain=stands.chain)
        return super().decide(asked, changes)


class NoDedupe(Book):
    """R6, R11: forgets which records it has."""

    def _is_known(self, edge: str, ids: tuple[int, int, int]) -> bool:
        return False


class NoFence(Book):
    """R7 at the log: takes batches of any epoch."""

    def decide(self, asked: Append, changes: Changes) -> Appended | NotAppended:
        asked = msgspec.structs.replace(asked, epoch=self.epoch(asked.edge))
        return super().decide(asked, changes)


class AnyPeer(Receiver):
    """R7 at the link: an older session may go on writing."""

    def _received(
        self, peer: Peer, message: Message, now: float, wall_ns: int
    ) -> list[hub_core.Effect]:
        if self.session is not None and getattr(message, "epoch", 0) != 0:
            message = msgspec.structs.replace(message, epoch=self.session.epoch)
            peer = self.session.peer
        return super()._received(peer, message, now, wall_ns)


class SilentDownLane(DownLane):
    def declare_gap(self, now: float) -> list[Effect]:
        self.sent = self.reached = self.trimmed
        return []


class SilentDown(Receiver):
    """D8: what an edge had before it was restored is passed over without a word."""

    down_lane = SilentDownLane


class AnyGreeting(Receiver):
    """D11: says at once what an edge does not have any more, though its greeting may be old."""

    def _begin_downlink(
        self, session: Session, offer: DownOffer | None, now: float
    ) -> list[hub_core.Effect]:
        effects = super()._begin_downlink(session, offer, now)
        unproven, session.unproven = session.unproven, []
        return [*unproven, *effects]


# Of the lanes to the edge.
DOWNLINK_MUTANTS: Mapping[str, Rules] = {
    "D8 silent gaps to the edge": Rules(receiver=SilentDown),
    "D1 effect and floor in two steps": Rules(down_two_steps=True),
    "D6 acknowledged is sent again": Rules(down_keeps_acked=True),
    "D7 no ids where it takes effect": Rules(down_no_ids=True),
    "D9 greets while a batch is being stored": Rules(down_greets_early=True),
    "D11 believes the floors of any greeting": Rules(receiver=AnyGreeting),
}

MUTANTS: Mapping[str, Rules] = {
    **DOWNLINK_MUTANTS,
    "R1 acks before the commit": Rules(acks_early=True),
    "R2 acks of any session": Rules(sender=ForeignAcks),
    "R3 any welcome": Rules(sender=NoNonce),
    "R4 no running hash": Rules(sender=NoChain, book=ChainlessBook),
    "R5 the old name after a fork": Rules(fork_keeps_name=True),
    "R6 trims what is merely acknowledged": Rules(trims_at_ack=True),
    "R6 no memory for doubles": Rules(book=NoDedupe),
    "R7 no fence": Rules(receiver=AnyPeer, book=NoFence),
    "R8 silent gaps": Rules(sender=SilentGap),
    "R11 new ids for re-issued records": Rules(fork_renames_records=True),
}
