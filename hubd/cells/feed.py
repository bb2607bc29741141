"""The log for the keys of all tenants: an entry is read once, and given to whose it is.

A tenant whose keys do not keep pace, on a slow disk say, reads by itself from its own cursor until
it has caught up. So no tenant waits for another, and what is held for all of them is bounded.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import trio

from hubd.log.base import Entry, Log

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 20
# Of entries that were read and that their tenants have not taken yet: beyond it, those who have the
# most to take read for themselves.
HELD_BYTES: Final = 16 << 20


class Portion(NamedTuple):
    """Entries of one tenant: all there are up to `upto`."""

    entries: Sequence[Entry]
    upto: int


class Feed(Protocol):
    """The log as one tenant sees it."""

    async def read(self, after: int, passed: Callable[[int], None]) -> Portion:
        """Return what comes after a position, once there is something.

        passed   is called with positions up to which all is others', while this waits
        """
        ...


async def read_portion(hub_log: Log, after: int, belongs: Callable[[str], bool]) -> Portion:
    """Read some of the log; returns the entries of edges that belong here."""
    await hub_log.wait_beyond(after)
    head = hub_log.head
    entries = await hub_log.read(after, limit_bytes=READ_BYTES)
    upto = entries[-1].position if entries else head  # the rest is damaged
    return Portion([entry for entry in entries if belongs(entry.edge)], upto)


class WholeLog:
    """A feed of everything that is in a log."""

    def __init__(self, hub_log: Log) -> None:
        self._log = hub_log

    async def read(self, after: int, passed: Callable[[int], None]) -> Portion:
        return await read_portion(self._log, after, lambda _edge: True)


class SharedFeed:
    """Reads a log for many tenants, for as long as `run` lasts; see the module."""

    def __init__(self, hub_log: Log, owner_of: Callable[[str], str]) -> None:
        self.log = hub_log
        self.owner_of = owner_of
        self.position = 0
        self.held_bytes = 0
        self._shares: dict[str, Share] = {}

    def join(self, tenant: str) -> "Share":
        """Return the feed of a tenant."""
        share = self._shares[tenant] = Share(self, tenant)
        return share

    async def run(self, start: int) -> None:
        """Read on from `start` until cancelled; who is not there yet reads for himself."""
        self.position = start
        for share in self._shares.values():
            share.begin(start)
        while True:
            portion = await read_portion(self.log, self.position, lambda _edge: True)
            theirs: dict[str, list[Entry]] = {}
            for entry in portion.entries:
                theirs.setdefault(self.owner_of(entry.edge), []).append(entry)
            for tenant, share in self._shares.items():
                share.give(theirs.get(tenant, []), self.position, portion.upto)
            self.position = portion.upto
            while self.held_bytes > HELD_BYTES:
                max(self._shares.values(), key=lambda share: share.nbytes).part()


class Share:
    """One tenant's part of a shared feed: it keeps up, or reads the log by itself.

    nbytes   held for the tenant
    """

    def __init__(self, feed: SharedFeed, tenant: str) -> None:
        self.nbytes = 0
        self._feed = feed
        self._tenant = tenant
        self._is_on_time = False
        self._after = self._upto = 0  # `_entries` are all of these between
        self._entries: list[Entry] = []
        self._given = trio.Event()
        self._passed: Callable[[int], None] | None = None

    async def read(self, after: int, passed: Callable[[int], None]) -> Portion:
        """See Feed. `after` may be less than it was: what was taken was not stored."""
        if after != self._after:
            self.part()
            self._after = after
        while True:
            if not self._is_on_time and self._after < self._feed.position:
                return await self._read_alone()
            if not self._is_on_time:
                self._is_on_time, self._upto = True, self._after
            if self._upto > self._after:
                return self._take()
            self._passed, self._given = passed, trio.Event()
            try:
                await self._given.wait()
            finally:
                self._passed = None

    async def _read_alone(self) -> Portion:
        owner_of, tenant = self._feed.owner_of, self._tenant
        portion = await read_portion(
            self._feed.log, self._after, lambda edge: owner_of(edge) == tenant
        )
        self._after = portion.upto
        return portion

    def _take(self) -> Portion:
        portion = Portion(self._entries, self._upto)
        self._empty()
        self._after = self._upto
        return portion

    def _empty(self) -> None:
        self._feed.held_bytes -= self.nbytes
        self._entries, self.nbytes = [], 0

    def begin(self, start: int) -> None:
        """Read alone what is before `start`, if it waits for that: the feed does not give it."""
        if self._is_on_time and self._upto < start:
            self.part()

    def give(self, entries: Sequence[Entry], after: int, upto: int) -> None:
        """Take in what was read between two positions."""
        if not self._is_on_time or upto <= self._upto:
            return
        assert after <= self._upto, "what lies between would be passed by"
        new = [entry for entry in entries if entry.position > self._upto]
        self._upto = upto
        if not (new or self._entries) and self._passed is not None:
            self._pass(self._passed)
            return
        nbytes = sum(len(entry.payload) for entry in new)
        self._entries += new
        self.nbytes += nbytes
        self._feed.held_bytes += nbytes
        self._given.set()

    def _pass(self, passed: Callable[[int], None]) -> None:
        """Go on behind entries of others without waking anybody."""
        try:
            passed(self._upto)
        except Exception as error:  # What is wrong with one may not stop the others: I8.
            log.error("keys of %s: %r", self._tenant, error)
        self._after = self._upto

    def part(self) -> None:
        """Give back what is held; the tenant reads for itself until it is on time again."""
        self._is_on_time = False
        self._empty()
        self._given.set()
