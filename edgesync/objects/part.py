"""Large objects that the hub assigns to this edge: fetched in parts, checked, and kept as files.

One task takes the next step that `plan` names, and begins again from what there is whenever
something changes: a listing, a part, a session, or nothing for too long. The hub is told how all
objects stand when that changes, with each session, and every half minute; whatever was lost on the
way comes with the next.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from edgesync.errors import EdgesyncError, RecordError
from edgesync.objects import plan as core
from edgesync.objects.files import FOLDER, Index, ObjectFiles
from edgesync.objects.model import Listing, ObjectRef, ObjectState, pack_states, read_listing
from edgesync.parts.part import Context, Part
from edgesync.status import ObjectsStatus, ObjectStatus
from edgesync_transport.messages import (
    Feature,
    ObjectListing,
    ObjectPart,
    ObjectPull,
    ObjectReport,
)
from edgesync_transport.seldom import Seldom

if TYPE_CHECKING:
    from edgesync.parts.link import LinkPart
    from edgesync.sync.driver import SyncDriver

log = logging.getLogger(__name__)

REPORT_S: Final = 30.0
# While bytes come in, the hub is told how many so often.
PROGRESS_S: Final = 1.0
DISK_RETRY_S: Final = 5.0
# Listings that change what is on the disk: so many at once, then one in so long, the newest.
LISTINGS_BURST: Final = 20
LISTING_EVERY_S: Final = 10.0


class ObjectsPart(Part):
    """See the module. The link tells it what the hub sends (`edgesync.sync.driver.Objects`)."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.files = ObjectFiles(context.data_dir / FOLDER)
        self.listing = Listing()
        self.held: dict[str, ObjectRef] = {}
        self.strays = self.broken = 0
        self.problem = ""
        self._have: dict[str, int] = {}
        self._free = 0
        self._failures: dict[str, core.Failure] = {}
        self._transfer: core.Transfer | None = None
        self._listed: Listing | None = None  # what came, and is not on the disk yet
        self._arrived: deque[bytes] = deque()
        self._epoch = 0
        self._told: tuple[int, str, list[ObjectState]] | None = None
        self._told_at = 0.0
        self._unchecked: list[ObjectRef] = []  # since the start
        self._wake = trio.Event()
        self._seldom = Seldom()
        self._changes = Seldom(LISTING_EVERY_S, trio.current_time, burst=LISTINGS_BURST)
        self._listing_from = -math.inf

    def open(self) -> None:
        try:
            index = self.files.load()
            self._have, self._free = self.files.drafts(), self.files.free_bytes()
        except OSError as error:  # I8: a site is measured without its objects, too
            self.problem = str(error)
            log.error("objects: %s", error)
            return
        self.listing, self.held = index.listing, {ref.name: ref for ref in index.held}
        self._unchecked = list(index.held)
        if not self.context.is_readonly:
            link: LinkPart = self.context.parts.get("link")
            link.objects = self

    # -- for programs ----------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Return where the bytes of an object are, whole, to be read; raises EdgesyncError.

        The file does not change. It goes when the hub has another object under this name, or none:
        open it at once, or ask again.
        """
        ref = self.held.get(name)
        if ref is None:
            state = next((one for one in self.states() if one.name == name), None)
            if state is None:
                raise EdgesyncError(
                    f"no object {name!r} here; `edgesync objects list` lists them, and `hubd "
                    "object assign` at the hub assigns one"
                )
            why = f": {state.reason}" if state.reason else ""
            raise EdgesyncError(
                f"the object {name!r} is {state.standing}, {state.have} of {state.size} bytes are "
                f"here{why}"
            )
        return self.files.path(ref.sha256)

    def states(self) -> list[ObjectState]:
        """Return how each object stands, those that are assigned first."""
        is_moving = self._transfer is not None and self._epoch > 0
        fetching = self._transfer.ref.sha256 if self._transfer and is_moving else ""
        listing, failures = self.listing, self._failures
        if self.problem:  # that of the disk, where what is listed now cannot be noted, either
            listing = self._listed or listing
            failure = core.Failure(self.problem, math.inf)
            failures = {ref.sha256: failure for ref in listing.wanted}
        return core.states(listing, self.held, self._have, self._room(), failures, fetching)

    def status(self) -> Mapping[str, Any]:
        found = tuple(
            ObjectStatus(
                name=one.name, sha256=one.sha256, size=one.size, have=one.have,
                standing=one.standing.value, reason=one.reason,
            )
            for one in self.states()
        )  # fmt: skip
        used = sum({ref.sha256: ref.size for ref in self.held.values()}.values())
        strays = self.strays + (self._transfer.strays if self._transfer is not None else 0)
        return {"objects": ObjectsStatus(
            objects=found, used_bytes=used, limit_bytes=int(self.context.settings.objects.limit),
            problem=self.problem, strays=strays, broken=self.broken,
        )}  # fmt: skip

    # -- from the hub (edgesync.sync.driver.Objects) ---------------------------------------------

    def hear(self, message: ObjectListing | ObjectPart) -> None:
        if isinstance(message, ObjectListing):
            try:
                self._listed = read_listing(message.payload)
            except RecordError as error:
                self.strays += 1
                if (again := self._seldom.ask("listing")) is not None:
                    log.error("objects: %s; %d more before", error, again)
        else:
            self._take(message)
        self._wake.set()

    def _take(self, part: ObjectPart) -> None:
        transfer = self._transfer
        if transfer is None:
            self.strays += 1
        elif part.reason and part.sha256 == transfer.ref.sha256:
            self._fail(transfer.ref.sha256, f"the hub: {part.reason}")
        elif transfer.take(
            part.sha256, part.offset, part.size, part.payload, trio.current_time()
        ):  # what waits here is bounded by what was asked for
            self._arrived.append(part.payload)

    def session_changed(self) -> None:
        self._wake.set()

    # -- its task --------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            self._wake = trio.Event()
            try:
                at = await self._turn()
                self.problem = ""
            except OSError as error:
                self._stop()
                self.problem = str(error)
                if (again := self._seldom.ask("disk")) is not None:
                    log.error("objects wait for the disk: %s; %d more before", error, again)
                if epoch := self._session():
                    self._report(epoch, trio.current_time())
                await trio.sleep(DISK_RETRY_S)
                continue
            with trio.move_on_at(at):
                await self._wake.wait()

    async def _turn(self) -> float:
        """Do all that can be done now; returns when to look again if nothing happens."""
        epoch = self._session()
        if epoch != self._epoch:
            self._epoch = epoch
            if self._transfer is not None:
                self._transfer.restart()
        await self._write_arrived()
        await self._take_listing()
        await self._take_steps()
        now = trio.current_time()
        if epoch and epoch == self._session():
            self._ask(epoch, now)
            self._report(epoch, now)
        due = [now + REPORT_S, core.again_at(self._failures, now)]
        if self._listed is not None:
            due.append(self._listing_from)
        if epoch and self._transfer is not None:
            due.append(self._transfer.due_at())
        if epoch and self._told != self._facts(epoch):
            due.append(now + PROGRESS_S)
        return max(min(due), now + 0.001)

    async def _take_listing(self) -> None:
        """Go by what the hub has listed last; what changes too often waits for its time (I7)."""
        listed, now = self._listed, trio.current_time()
        if listed is None or now < self._listing_from:
            return
        if listed != self.listing:
            if self._changes.ask("listing") is None:
                self._listing_from = now + LISTING_EVERY_S
                return
            await self._save(listed, self.held)
        if self._listed is listed:
            self._listed = None

    async def _take_steps(self) -> None:
        while True:
            self._have, self._free = await trio.to_thread.run_sync(self._look)
            step = core.plan(
                self.listing, self.held, self._have, self._room(), self._failures,
                trio.current_time(),
            )  # fmt: skip
            match step:
                case core.Drop(name):
                    left = {key: ref for key, ref in self.held.items() if key != name}
                    await self._save(self.listing, left)
                    log.info("object removed: %s", name)
                case core.Adopt(ref):
                    await self._save(self.listing, {**self.held, ref.name: ref})
                    log.info("object held: %s %s", ref.name, ref.sha256)
                case core.Fetch(ref):
                    await self._fetch(ref)
                    if self._transfer is None or not self._transfer.is_whole:
                        return
                    await self._finish(ref)
                case _:
                    self._stop()
                    if not self._unchecked:
                        return
                    await self._check(self._unchecked.pop())

    def _look(self) -> tuple[dict[str, int], int]:
        return self.files.drafts(), self.files.free_bytes()

    async def _check(self, ref: ObjectRef) -> None:
        """Compare an object of before this start with its SHA-256; what rotted comes again.

        What the hub does not assign stays, as nobody could bring it back (I15).
        """
        is_held = self.held.get(ref.name) == ref
        if not is_held or await trio.to_thread.run_sync(self.files.is_sound, ref.sha256):
            return
        self.broken += 1
        log.error("object damaged on this disk: %s %s", ref.name, ref.sha256)
        if any(one.sha256 == ref.sha256 for one in self.listing.wanted):
            left = {key: one for key, one in self.held.items() if one.sha256 != ref.sha256}
            await self._save(self.listing, left)

    async def _fetch(self, ref: ObjectRef) -> None:
        """Let the transfer be that of `ref`, from where its draft ends."""
        if self._transfer is not None and self._transfer.ref.sha256 == ref.sha256:
            return
        self._stop()
        await trio.to_thread.run_sync(self.files.tidy, self.held, ref.sha256)
        self._transfer = core.Transfer(ref, await trio.to_thread.run_sync(self.files.begin, ref))
        log.info("object wanted: %s, %d of %d bytes", ref.name, self._transfer.taken, ref.size)

    async def _finish(self, ref: ObjectRef) -> None:
        await self._write_arrived()
        if await trio.to_thread.run_sync(self.files.finish, ref.sha256):
            await self._save(self.listing, {**self.held, ref.name: ref})
            self._failures.pop(ref.sha256, None)
            self._stop()
            log.info("object held: %s %s", ref.name, ref.sha256)
        else:
            self.broken += 1
            self._fail(ref.sha256, "its bytes are not those that its SHA-256 says")

    def _fail(self, sha256: str, reason: str) -> None:
        before = self._failures.get(sha256)
        self._failures[sha256] = core.failed(before, reason, trio.current_time())
        log.error("object not fetched: %s: %s", sha256, reason)
        self._stop()

    def _stop(self) -> None:
        if self._transfer is not None:
            self.strays += self._transfer.strays
        self._transfer = None
        self._arrived.clear()

    async def _write_arrived(self) -> None:
        """Put what has come at the end of the draft."""
        while self._transfer is not None and self._arrived:
            sha256, data = self._transfer.ref.sha256, b"".join(self._arrived)
            offset = self._transfer.taken - len(data)
            self._arrived.clear()
            await trio.to_thread.run_sync(self.files.write, sha256, offset, data)
            self._have[sha256] = offset + len(data)

    async def _save(self, listing: Listing, held: dict[str, ObjectRef]) -> None:
        """Store what is wanted and held, and remove what is neither any more."""
        await trio.to_thread.run_sync(self.files.save, Index(listing, tuple(held.values())))
        wanted = {ref.sha256 for ref in listing.wanted}
        self._failures = {key: one for key, one in self._failures.items() if key in wanted}
        self.listing, self.held = listing, held
        if self._transfer is not None and self._transfer.ref.sha256 not in wanted:
            self._stop()
        draft = self._transfer.ref.sha256 if self._transfer is not None else ""
        if not draft:
            draft = next((key for key in self._have if key in wanted), "")
        await trio.to_thread.run_sync(self.files.tidy, held, draft)

    # -- to the hub ------------------------------------------------------------------------------

    def _session(self) -> int:
        """Return the number of the session if the hub has objects in it, else 0."""
        driver = self._driver()
        if driver is None or Feature.OBJECTS not in driver.sender.features:
            return 0
        return driver.epoch

    def _driver(self) -> "SyncDriver | None":
        link: LinkPart = self.context.parts.get("link")
        return link.driver

    def _room(self) -> core.Room:
        section = self.context.settings.objects
        return core.Room(limit=int(section.limit), free=self._free, reserve=int(section.reserve))

    def _ask(self, epoch: int, now: float) -> None:
        driver = self._driver()
        if self._transfer is None or driver is None:
            return
        for ask in self._transfer.asks(now):
            driver.tell(ObjectPull(
                epoch=epoch, sha256=self._transfer.ref.sha256, offset=ask.offset,
                length=ask.length,
            ))  # fmt: skip

    def _facts(self, epoch: int) -> tuple[int, str, list[ObjectState]]:
        return epoch, self.listing.digest(), self.states()

    def _report(self, epoch: int, now: float) -> None:
        driver, found = self._driver(), self._facts(epoch)
        is_news = self._told is None or _without_progress(found) != _without_progress(self._told)
        pause_s = PROGRESS_S if found != self._told else REPORT_S
        if driver is None or not (is_news or now - self._told_at >= pause_s):
            return
        report = ObjectReport(epoch=epoch, listing=found[1], payload=pack_states(found[2]))
        if driver.tell(report):
            self._told, self._told_at = found, now


def _without_progress(told: tuple[int, str, list[ObjectState]]) -> object:
    return told[0], told[1], [(one.name, one.sha256, one.standing, one.reason) for one in told[2]]
