"""The shell around the hub's keys: follows the log, answers edges, takes care.

An edge has one question at a time. Its answer waits until the log is carried out up to what the
edge's operations had reached, and, when it would tell nothing new, until there is news or the time
the edge gave is over. It is sent after the commit of all it tells (I1).

A commit wakes only those whom it concerns: who wants a key that changed, whose operations were
carried out, who has a part in a conflict (subscriptions.py).
"""

import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import trio

from edgesync._native import batch
from edgesync._native.batch import Record
from edgesync._native.cells import encode_entries
from edgesync.cells import Reply
from edgesync.cells.conflicts import Conflict
from edgesync.cells.scope import granted, narrowed
from edgesync.errors import CommandError, StoreError
from edgesync.sync.puller import payload_of, told_digest
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    Codec,
    ConflictReport,
    DeltaSync,
    FullSync,
    Lane,
    Message,
    Pull,
)
from edgesync_transport.receiver import Receiver
from edgesync_transport.seldom import Seldom
from hubd.cells import proposals
from hubd.cells.feed import Feed, WholeLog
from hubd.cells.proposals import Proposal, Proposer
from hubd.cells.store import PAGE_TURNS, Answer, HubCells, operations_of, scope_of
from hubd.cells.subscriptions import Subscription, Subscriptions
from hubd.log.base import Entry, Log
from hubd.registry import DEFAULT_TENANT

log = logging.getLogger(__name__)

# Rows that an entry may stand for to be unpacked faster than a thread is woken.
DECODE_INLINE_ROWS: Final = 64 * 1024
PART_BYTES: Final = 256 * 1024
WAIT_MAX_S: Final = 60.0
# Beyond so many changed keys in one commit everybody is woken: looking at each would take longer.
CHANGES_MAX: Final = 5000
CONFLICTS_MAX: Final = 100
# Changes close together are told together.
NEWS_PAUSE_S: Final = 0.01
CARE_S: Final = 1.0
# Edges that keep a copy are looked at so seldom, for each of them: that takes some microseconds.
CARE_OF_EDGE_S: Final = 0.002
# … after it has failed: each time may have been an entry of the log.
CARE_FAILED_S: Final = 60.0
RETRY_S: Final = 1.0
COMPLAIN_EVERY_S: Final = 60.0
# Keys counted in one go, between other work.
DIGESTED: Final = 2000
DIGESTS_KEPT: Final = 64

Send = Callable[[Peer, Message], Awaitable[None]]


class _Asking:
    """An edge with a question: what cancels it, and the last answer's bytes, for its parts."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.token = -1
        self.page: FullSync | DeltaSync | None = None
        # What the last answer of that session said of the edge's own operations.
        self.epoch = self.applied = 0


class KeysShare(msgspec.Struct, frozen=True):
    """The share of what is new for an edge that its last answer led to, and when."""

    share: float
    at_ms: int


class Answers:
    """See the module.

    changed          is set when keys have changed, and replaced by another then
    feed             what of the log these keys are made of; without, all of it
    tenant           whose keys they are
    grant_of         prefixes of the keys an edge may be told of; none: all
    subscriptions    edges that wait for news
    between_turns    is awaited between two turns of a page, with the seconds that the last one took
    retire_after_s   an edge that has not asked so long is waited for no more
    conflicts_s      a conflict nobody resolves is listed as open for so long
    """

    def __init__(
        self,
        cells: HubCells,
        hub_log: Log,
        *,
        feed: Feed | None = None,
        tenant: str = DEFAULT_TENANT,
        grant_of: Callable[[str], tuple[bytes, ...]] = lambda _edge: (),
        retire_after_s: float = 30 * 86400.0,
        conflicts_s: float = 7 * 86400.0,
    ) -> None:
        self.cells = cells
        self._quiet_until = 0.0
        self.log = hub_log
        self._feed = feed or WholeLog(hub_log)
        self._proposer = Proposer(hub_log, tenant)
        cells.on_carried_out = self._proposer.carried_out
        self._started = trio.Event()
        self._forgotten: set[str] = set()  # edges that are to be given up
        self._seldom = Seldom()
        self._grant_of = grant_of
        self.too_old: set[str] = set()  # edges that are granted some keys and do not know of grants
        self._retire_after_s = retire_after_s
        self._conflicts_s = conflicts_s
        self._asking: dict[str, _Asking] = {}
        self.changed = trio.Event()
        self.subscriptions = Subscriptions()
        self.between_turns: Callable[[float], Awaitable[None]] = trio.sleep
        self.shares: dict[str, KeysShare] = {}  # of edges that were answered since this start
        self._told_seq = cells.space.seq  # changes up to here have woken whom they concern
        self._told_change = cells.conflicts.change
        self._told_names = cells.namings
        self._moved = trio.Event()  # by an entry of the log
        self._hearing = ""  # the edge whose entry is being carried out
        # Who waits for a place in the log, the nearest first.
        self._reaching: list[tuple[int, int, trio.Event]] = []
        self._nth = itertools.count()
        self._edges_due = 0.0  # all that keep a copy are to be looked at
        self._digests: dict[bytes, tuple[tuple[int, int], int]] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Last until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.cells.keep_committing)
            await nursery.start(self._proposer.run)
            task_status.started()
            nursery.start_soon(self._begin)
            self.cells.on_commit(self._committed)
            try:
                await self._follow()
            finally:
                self._nursery = None

    # -- proposals ---------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Have the log know of this start: before, edges are told nothing."""
        while not self.cells.is_started:
            try:
                await self.propose(self.cells.start_proposal())
            except Exception as error:  # Whatever it is, the link goes on without keys: I8.
                await self._wait_for_disk(error)
        self._started.set()
        await self._take_care()

    async def propose(self, proposal: Proposal) -> Any:
        """Return what came of a proposal, once the log has it and it was carried out.

        Raises StoreError when the log does not take it, or it cannot be carried out.
        """
        return await self._proposer.propose(proposal)

    async def run_commands(self, requests: Sequence[Sequence[bytes]]) -> list[Reply]:
        """Carry out commands that write, with nothing between them; raises StoreError.

        When this returns, the log has them.
        """
        asked = proposals.Run(tuple(tuple(request) for request in requests))
        replies: list[Reply] = await self.propose(asked)
        return replies

    async def resolve(self, number: int, choice: Sequence[bytes]) -> None:
        """Resolve a conflict, see HubCells.resolve; raises CommandError, StoreError."""
        problem = await self.propose(proposals.Resolve(number, tuple(choice)))
        if isinstance(problem, CommandError):
            raise problem

    async def give_up(self, edge: str) -> None:
        """Wait for this edge no longer: see HubCells.give_up; raises StoreError."""
        await self.propose(proposals.GiveUp((edge,)))
        self.shares.pop(edge, None)

    async def reach_told(self) -> None:
        """Return when the keys have all that was answered: in the log, it is on disk (I1).

        What could not be stored of them is taken back, and carried out once more.
        """
        await trio.lowlevel.checkpoint()
        while self.cells.position < self._proposer.told:
            await self._moved.wait()

    @property
    def skipped(self) -> int:
        """Entries and records of the log that could not be carried out, since the start."""
        return self.cells.skipped

    # -- the log -----------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            stood = self.cells.refusals
            portion = await self._feed.read(self.cells.position, self._pass_over)
            try:
                for entry in portion.entries:
                    self._hearing = entry.edge
                    await self._project(entry, stood)
                    self._hearing = ""
                    self._has_moved()
                self._pass_over(portion.upto)
                # Commits are to keep up: what is not on disk is held in memory (I7).
                await self.cells.wait_durable(stood)
            except StoreError as error:  # The keys' file is to blame: read again.
                await self._wait_for_disk(error)

    def _pass_over(self, position: int) -> None:
        """Go on behind entries up to a position: those not carried out are no business of these."""
        self._proposer.passed(position)
        if position > self.cells.position:
            self.cells.pass_over(position)
            self._has_moved()

    async def _project(self, entry: Entry, stood: int) -> None:
        """Carry out an entry; raises StoreError.

        stood   `HubCells.refusals` before the entry was read: nothing goes on top of a gap, which
                what was taken back leaves
        """
        try:
            records = await self._decode(entry)
            self.cells.check_refusals(stood)
            for _ in self.cells.project(entry, records):
                await trio.lowlevel.checkpoint()
                self.cells.check_refusals(stood)
        except StoreError:
            raise
        except Exception as error:  # A bad entry may be bad in any way: I8.
            self.cells.skipped += 1
            log.error(
                "keys: skipped entry %d (%s %d..%d): %s",
                entry.position, entry.edge, entry.first, entry.last, error,
            )  # fmt: skip
            self.cells.pass_over(entry.position)
            self._proposer.not_carried_out(entry, error)

    async def _decode(self, entry: Entry) -> Sequence[Record]:
        """Return the operations of an entry; what stands for much is unpacked in a thread."""
        if entry.lane is not Lane.NORMAL or entry.codec not in (Codec.ROWS, Codec.COLUMNS):
            return ()
        if batch.raw_size(entry.payload) <= DECODE_INLINE_ROWS:
            return operations_of(entry)
        return await trio.to_thread.run_sync(operations_of, entry)

    async def _wait_for_disk(self, error: Exception) -> None:
        now = trio.current_time()
        if now >= self._quiet_until:
            log.error("keys wait for the disk: %s", error)
            self._quiet_until = now + COMPLAIN_EVERY_S
        await trio.sleep(RETRY_S)

    def _committed(self, _generation: int, error: StoreError | None) -> None:
        """Wake those whom a commit concerns. What is not in it yet may wake them early."""
        cells = self.cells
        if error is not None:  # What was changed has not happened: its numbers are given again.
            self._told_seq = min(self._told_seq, cells.space.seq)
            self._told_change = min(self._told_change, cells.conflicts.change)
            return
        self.subscriptions.wake_edges(cells.take_heard())
        if cells.namings != self._told_names:
            self._told_names = cells.namings
            self.subscriptions.wake_all()
        if cells.space.seq == self._told_seq and cells.conflicts.change == self._told_change:
            return
        self._wake_for_changes()
        self._wake_for_conflicts()
        self.changed.set()
        self.changed = trio.Event()

    def _wake_for_changes(self) -> None:
        if self.subscriptions:
            changed = self.cells.changed_since(self._told_seq, CHANGES_MAX)
            if changed is None:
                self.subscriptions.wake_all()
            else:
                self.subscriptions.wake_for(changed)
        self._told_seq = self.cells.space.seq

    def _wake_for_conflicts(self) -> None:
        conflicts = self.cells.conflicts
        if self.subscriptions and conflicts.change > self._told_change:
            changed = conflicts.since(self._told_change, CONFLICTS_MAX)
            for one in changed:
                sides = (one.winner, *one.losers)
                self.subscriptions.wake_replicas(side.r for side in sides if side is not None)
            if len(changed) == CONFLICTS_MAX:
                self.subscriptions.wake_all()
        self._told_change = conflicts.change

    # -- questions ---------------------------------------------------------------------------

    def ask(self, peer: Peer, pull: Pull, receiver: Receiver, send: Send) -> None:
        """Answer an edge's question, in time; a newer one takes its place.

        None is answered when `run` is at its end: the link may be heard a moment longer.
        """
        if self._nursery is None:
            return
        asking = self._asking.setdefault(peer.edge, _Asking())
        asking.scope.cancel()
        asking.scope = trio.CancelScope()
        self._nursery.start_soon(self._answer, asking, asking.scope, peer, pull, receiver, send)

    def forget(self, edge: str) -> None:
        """The edge may not come any more (its key was revoked): nothing waits for it."""
        if edge in self._asking:
            self._asking.pop(edge).scope.cancel()
        if self.cells.names.get(edge) is not None:
            self._forgotten.add(edge)
            if self._nursery is not None:
                self._nursery.start_soon(self._give_up_forgotten)

    async def _give_up_forgotten(self) -> None:
        """Give them up; where the log takes nothing, later."""
        gone, self._forgotten = self._forgotten, set()
        try:
            if gone:
                await self.propose(proposals.GiveUp(tuple(sorted(gone))))
        except StoreError:
            self._forgotten |= gone

    async def _answer(
        self, asking: _Asking, scope: trio.CancelScope, peer: Peer, pull: Pull,
        receiver: Receiver, send: Send,
    ) -> None:  # fmt: skip
        with scope:
            try:
                await self._give(asking, peer, pull, receiver, send)
            except Exception as error:  # One edge's question may stop no other's answer: I8.
                if (again := self._seldom.ask(("asked", peer.edge))) is not None:
                    told = "keys: no answer for %s, it will ask again: %r; %d more before"
                    log.error(told, peer.edge, error, again)

    async def _give(
        self, asking: _Asking, peer: Peer, pull: Pull, receiver: Receiver, send: Send
    ) -> None:
        grant = self._grant_of(peer.edge)
        if grant and not pull.knows_grants:
            # It would take what it is not told of for gone, its own keys too.
            self.too_old.add(peer.edge)
            return
        self.too_old.discard(peer.edge)
        pull = _within(pull, grant)
        if asking.epoch != pull.epoch:
            asking.epoch, asking.applied = pull.epoch, 0
        page = asking.page
        is_next_part = pull.part and asking.token == pull.token
        if page is not None and is_next_part and page.grant == grant:
            pass
        else:
            asking.page = None  # it may be large, and the next is waited for
            page = await self._page(asking, peer.edge, pull, receiver)
            asking.token, asking.page = pull.token, page if page.parts > 1 else None
        if not pull.part and page.replica == pull.replica and page.grant == pull.grant:
            await self._report(peer, pull, send)
        if pull.part < page.parts:
            at = pull.part * PART_BYTES
            part = page.payload[at : at + PART_BYTES]
            await send(peer, msgspec.structs.replace(page, part=pull.part, payload=part))
            asking.applied = page.applied

    async def _page(
        self, asking: _Asking, edge: str, pull: Pull, receiver: Receiver
    ) -> FullSync | DeltaSync:
        with self.subscriptions.open(edge, pull.replica, scope_of(pull)) as subscription:
            return await self._next_page(asking, subscription, pull, receiver)

    async def _next_page(
        self, asking: _Asking, subscription: Subscription, pull: Pull, receiver: Receiver
    ) -> FullSync | DeltaSync:
        edge = subscription.edge
        await self._started.wait()
        until = trio.current_time() + min(pull.wait_s, WAIT_MAX_S)
        while True:
            subscription.clear()  # before the look: nothing comes between
            grant = self._grant_of(edge)
            if grant != pull.grant:
                return self._new_grant(pull, grant)
            # Read in this order: what is up to the floor is in the log up to its head.
            session = receiver.session
            incarnation = b"" if session is None else session.incarnation
            floor = receiver.floors[Lane.NORMAL].floor
            await self._reach(self.log.head, edge)
            stood = self.cells.refusals
            told = self.cells.heard_of(edge, incarnation)
            applied = max(floor, told)
            lacking = self.cells.lacking(edge, incarnation, pull)
            if lacking is not None:
                await self.propose(lacking)
                continue
            answer = self.cells.answer(edge, pull, applied)

            def is_exact(incarnation: bytes = incarnation, told: int = told) -> bool:
                return self._hearing != edge and self.cells.heard_of(edge, incarnation) == told

            answer = await self._whole_page(edge, pull, answer, applied, is_exact)
            digest = await self._digest(pull) if pull.wants_digest and answer.is_all else 0
            await self.cells.wait_durable(stood)
            is_named = (pull.replica, pull.keyspace) == (answer.replica, self.cells.mark.keyspace)
            is_news = bool(answer.entries or digest) or not is_named or told > asking.applied
            if is_news or self._unreported(pull)[1] or trio.current_time() >= until:
                self._note_told(edge, pull, answer)
                return self._page_of(pull, answer, applied, digest)
            with trio.move_on_at(until):
                await subscription.news.wait()
                await trio.sleep(NEWS_PAUSE_S)

    async def _whole_page(
        self, edge: str, pull: Pull, answer: Answer, applied: int, is_exact: Callable[[], bool]
    ) -> Answer:
        """Add to an answer, turn by turn, what belongs to its page.

        is_exact   whether `applied` says what of the edge's own operations is in the keys as they
                   are now; a page ends before more is
        """
        rest, took_s = msgspec.structs.replace(pull, wants=()), 0.0
        for _ in range(PAGE_TURNS - 1):
            if answer.is_all:
                break
            await self.between_turns(took_s)
            is_named = (pull.replica, pull.keyspace) == (answer.replica, self.cells.mark.keyspace)
            if not is_named or not is_exact() or self._grant_of(edge) != pull.grant:
                break
            rest, begun = msgspec.structs.replace(rest, after=answer.position), trio.current_time()
            more = self.cells.answer(edge, rest, applied)
            answer = msgspec.structs.replace(more, entries=answer.entries + more.entries)
            took_s = trio.current_time() - begun
        return answer

    async def _reach(self, position: int, edge: str) -> None:
        """Return between two entries of the edge: what is told of its operations must be exact."""
        while self.cells.position < position or self._hearing == edge:
            if self._hearing == edge:
                await self._moved.wait()
            else:
                reached = trio.Event()
                heapq.heappush(self._reaching, (position, next(self._nth), reached))
                await reached.wait()

    def _has_moved(self) -> None:
        """Tell those who wait for the log to be carried out, and for an edge's entry."""
        self._moved.set()
        self._moved = trio.Event()
        while self._reaching and self._reaching[0][0] <= self.cells.position:
            heapq.heappop(self._reaching)[2].set()

    def _unreported(self, pull: Pull) -> tuple[int, list[Conflict]]:
        """The newest change of a conflict looked at, and those this edge has a part in."""
        if self.cells.conflicts.change <= pull.conflicts:
            return pull.conflicts, []
        changed = self.cells.conflicts.since(pull.conflicts)
        last = changed[-1].change if changed else pull.conflicts
        return last, [
            one for one in changed
            if one.involves(pull.replica) and granted(one.key, pull.grant)
        ]  # fmt: skip

    async def _report(self, peer: Peer, pull: Pull, send: Send) -> None:
        last, told = self._unreported(pull)
        if last == pull.conflicts:
            return
        payload = msgspec.msgpack.encode(told) if told else b""
        report = ConflictReport(epoch=pull.epoch, last=last, count=len(told), payload=payload)
        await send(peer, report)

    async def _digest(self, pull: Pull) -> int:
        """Return what stands for all keys the edge wants; 0 when they changed meanwhile.

        Edges of a fleet mostly want the same keys, so one count serves many.
        """
        stands = self.cells.stands()
        found = self._digests.get(pull.payload)
        if found is not None and found[0] == stands:
            return found[1]
        scope, total, after = scope_of(pull), 0, 0
        while True:
            part, last = self.cells.space.digest(after, DIGESTED, scope)
            total += part
            if last is None:
                break
            after = last
            await trio.lowlevel.checkpoint()
            if self.cells.stands() != stands:
                return 0
        kept = self._digests.items()
        self._digests = {wanted: one for wanted, one in kept if one[0] == stands}
        if len(self._digests) < DIGESTS_KEPT:
            self._digests[pull.payload] = stands, told_digest(total)
        return told_digest(total)

    def _new_grant(self, pull: Pull, grant: tuple[bytes, ...]) -> DeltaSync:
        """Return a page that tells nothing but what is granted now."""
        return DeltaSync(
            epoch=pull.epoch, token=pull.token, keyspace=pull.keyspace, replica=pull.replica,
            position=pull.after, applied=0, stable=0, is_all=False, part=0, parts=1, grant=grant,
        )  # fmt: skip

    def regrant(self, edge: str) -> None:
        """Tell the edge what it is granted now, should it be waiting for news."""
        self.subscriptions.wake_edges([edge])

    def _note_told(self, edge: str, pull: Pull, answer: Answer) -> None:
        coming = answer.head - pull.base
        come = answer.position - pull.base
        share = 1.0 if answer.is_all or coming <= 0 else max(0.0, come / coming)
        self.shares[edge] = KeysShare(share, self.cells.now_ms())

    def _page_of(
        self, pull: Pull, answer: Answer, applied: int, digest: int
    ) -> FullSync | DeltaSync:
        payload = payload_of(answer.entries, encode_entries(answer.entries))
        kind = DeltaSync if pull.base else FullSync
        return kind(
            epoch=pull.epoch,
            token=pull.token,
            keyspace=self.cells.mark.keyspace,
            replica=answer.replica,
            position=answer.position,
            applied=applied,
            stable=answer.stable,
            is_all=answer.is_all,
            part=0,
            parts=max(1, -(-len(payload) // PART_BYTES)),
            digest=digest,
            start=self.cells.lineage.start,
            told=answer.told,
            seen=answer.seen,
            grant=pull.grant,
            head=answer.head,
            payload=payload,
        )

    # -- care --------------------------------------------------------------------------------

    async def _take_care(self) -> None:
        pause_s = CARE_S
        while True:
            await trio.sleep(pause_s)
            pause_s = CARE_S
            try:
                await self._care()
            except Exception as error:  # What cannot be tidied up may stop no answer: I8.
                pause_s = CARE_FAILED_S
                if (again := self._seldom.ask("care")) is not None:
                    log.error("keys: tidying up failed, tried again: %r; %d more", error, again)

    async def _care(self) -> None:
        await self._give_up_forgotten()
        now_ms = self.cells.now_ms()
        unseen_ms = now_ms - int(self._retire_after_s * 1000)
        unresolved_ms = now_ms - int(self._conflicts_s * 1000)
        if looks_at_edges := trio.current_time() >= self._edges_due:
            pause_s = max(CARE_S, self.cells.names.count * CARE_OF_EDGE_S)
            self._edges_due = trio.current_time() + pause_s - CARE_S / 2
        due = partial(self.cells.due, unseen_ms, unresolved_ms, looks_at_edges=looks_at_edges)
        while (proposal := due()) is not None:
            await self.propose(proposal)


def _within(pull: Pull, grant: tuple[bytes, ...]) -> Pull:
    """Return the question for no more than what is granted."""
    if not grant:
        return pull
    scope = narrowed(scope_of(pull), grant)
    return msgspec.structs.replace(
        pull,
        payload=msgspec.msgpack.encode(scope),
        wants=tuple(key for key in pull.wants if granted(key, grant)),
    )
