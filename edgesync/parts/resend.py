"""Past readings that are sent to the hub once more, one range at a time (S30).

What is asked for and how far it has come is a row of the store, written with each record (I2): it
goes on after a kill. The next record is appended when the hub has the one before, so readings and
alarms of now wait for one record at most, and nothing piles up while there is no link.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.errors import EdgesyncError, RecordError, StoreError
from edgesync.model import EntityType, Event, EventType, Lane, RecordKind
from edgesync.parts.part import Context, Part
from edgesync.resend import Range, WalkPosition, shown_time
from edgesync.status import ResendStatus
from edgesync.store.journal import META
from edgesync_transport.messages import Feature

if TYPE_CHECKING:
    from edgesync.parts.link import LinkPart
    from edgesync.store.resend import Walk, WalkStep
    from edgesync.sync.driver import SyncDriver

log = logging.getLogger(__name__)

KEY: Final = b"resend"
POINTS: Final = "points"
RETRY_S: Final = 5.0
LOOK_S: Final = 0.5
NO_HUB: Final = "waits for the hub"
OLD_HUB: Final = "the hub is too old to take readings once more; upgrade it"


class ResendJob(msgspec.Struct, frozen=True):
    """A range under way or done.

    upto     what the hub had of each lane when it was asked for
    oldest   the oldest record there was of each lane then; empty: not known
    """

    wanted: Range
    upto: tuple[int, ...]
    position: WalkPosition = WalkPosition()
    readings: int = 0
    missed: int = 0
    is_done: bool = False
    oldest: tuple[int, ...] = ()


class ResendUnderWay(EdgesyncError):
    """One range at a time."""


class ResendPart(Part):
    """See the module. Also whom the link gives what the hub asks for (`inbound.Handler`)."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._job: ResendJob | None = None
        self._problem, self._share = "", 0.0
        self._asked = trio.Event()
        self._scope = trio.CancelScope()
        self._is_beginning = False  # one is being stored
        # What the hub tells together may have several; it stays when that could not be stored.
        self._staged_in: Write | None = None

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        raw = self.context.recorder.store.store.get(META, KEY)
        if raw is not None:
            try:
                self._job = msgspec.msgpack.decode(raw, type=ResendJob)
            except (ValueError, msgspec.MsgspecError) as error:
                log.error("the range in a damaged row is not sent again: %s", error)
        link: LinkPart = self.context.parts.get("link")
        link.handlers[EventType.RESEND] = self

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            job = self._job
            if job is None or job.is_done:
                self._asked = trio.Event()
                await self._asked.wait()
                continue
            try:
                with self._scope:
                    await self._carry_out(job)
            except (StoreError, RecordError) as error:  # a full store, say: I8
                self._problem = str(error)
                log.error("resend waits: %s", error)
                await trio.sleep(RETRY_S)
            self._scope = trio.CancelScope()

    def status(self) -> Mapping[str, Any]:
        job = self._job
        if job is None:
            return {}
        wanted = job.wanted
        return {
            "resend": ResendStatus(
                from_ns=wanted.from_ns, to_ns=wanted.to_ns, entity=wanted.entity, key=wanted.key,
                readings=job.readings, missed=job.missed, is_done=job.is_done,
                share=1.0 if job.is_done else self._share,
                problem="" if job.is_done else self._problem,
            )
        }  # fmt: skip

    # -- asked for -------------------------------------------------------------------------------

    async def begin(self, wanted: Range) -> None:
        """Store that a range is to be sent once more; the daemon does it, now or after its start.

        Raises NotStored when the store has not all of it, ResendUnderWay while another one is.
        """
        write, job = self._staged(wanted)
        self._is_beginning = True
        try:
            await self.context.recorder.store.submit(write)
        finally:
            self._is_beginning = False
        self._begun(job)

    def begin_sync(self, wanted: Range) -> None:
        """Do as `begin` does, from a plain program."""
        write, job = self._staged(wanted)
        self.context.recorder.store.submit_sync(write)
        self._begun(job)

    def _staged(self, wanted: Range) -> tuple[Write, ResendJob]:
        job = self._checked(wanted)
        write = Write()
        _put(write, job)
        return write, job

    def _begun(self, job: ResendJob) -> None:
        self._job, self._problem, self._share = job, "", 0.0
        self._staged_in = None
        self._asked.set()

    def _checked(self, wanted: Range) -> ResendJob:
        if wanted.from_ns >= wanted.to_ns:
            raise RecordError(
                f"from {shown_time(wanted.from_ns)} to {shown_time(wanted.to_ns)} is no range; "
                "`to` is the later one, and is not in it"
            )
        job = self._job
        if job is not None and not job.is_done:
            raise ResendUnderWay(
                f"readings from {shown_time(job.wanted.from_ns)} to "
                f"{shown_time(job.wanted.to_ns)} are under way; `edgesync resend --stop` ends that"
            )
        if self._is_beginning or self._staged_in is not None:
            raise ResendUnderWay("another range begins now; `edgesync resend --stop` ends that")
        if not self.context.settings.hub.endpoint:
            raise EdgesyncError("no hub to send to; join one with `edgesync init --token …`")
        # The link knows of acks that are not marked on disk yet; without one, nobody does.
        lanes = [self.context.recorder.lane_status(lane) for lane in Lane]
        is_linked = self.context.parts.nursery is not None
        store = self.context.recorder.store
        job = ResendJob(
            wanted,
            tuple(one.floor if is_linked else one.tail for one in lanes),
            oldest=tuple(store.state(lane).trimmed + 1 for lane in Lane),
        )
        self._walk(job).check()
        return job

    def _walk(self, job: ResendJob) -> "Walk":
        from edgesync.store.resend import Walk  # with the point store: most edges do without

        store, points = self.context.recorder.store, None
        if store.store.count(POINTS) or self.context.parts.find(POINTS) is not None:
            points = self.context.parts.get(POINTS).store
        return Walk(store, points, job.wanted, job.upto, job.oldest)

    async def stop(self) -> None:
        """End what is under way; what was sent stays sent."""
        self._staged_in = None  # the hub may have given it up
        job = self._job
        if job is None or job.is_done:
            return
        write, ended = Write(), msgspec.structs.replace(job, is_done=True)
        _put(write, ended)
        self._job = ended
        self._scope.cancel()
        await self.context.recorder.store.submit(write)

    def stage(self, write: Write, event: Event) -> Callable[[], None]:
        """Take a range that the hub asks for; why it cannot be had is an event, which it sees."""
        try:
            wanted = msgspec.json.decode(event.body, type=Range)
        except msgspec.MsgspecError as error:
            raise RecordError(f"a range of readings that cannot be read: {error}") from error
        try:
            if self._staged_in is write:
                raise ResendUnderWay("it came together with another range, which goes first")
            self._staged_in = None  # one of before was not stored
            job = self._checked(wanted)
        except EdgesyncError as refusal:
            log.error("resend refused: %s", refusal)
            self._report(write, "resend_refused", {**_facts(wanted), "reason": str(refusal)})
            return lambda: None
        _put(write, job)
        self._staged_in = write
        return lambda: self._begun(job)

    # -- carried out -----------------------------------------------------------------------------

    async def _carry_out(self, job: ResendJob) -> None:
        walk = self._walk(job)
        for step in walk.steps(job.position):
            before, job = job, msgspec.structs.replace(
                job, position=step.position, readings=job.readings + step.readings,
                missed=job.missed + step.missed,
            )  # fmt: skip
            if step.body:
                driver = await self._hub()
                await self._send(driver, step, before, job)
            else:
                self._note(before, job)
            self._share = walk.share(job.position)
            await trio.lowlevel.checkpoint()
        ended, write = msgspec.structs.replace(job, is_done=True), Write()
        _put(write, ended)
        facts = {**_facts(job.wanted), "readings": job.readings, "missed": job.missed}
        self._report(write, "resent", facts)
        tails = await self.context.recorder.store.submit(write)
        self._note(job, ended)
        self.context.recorder.note_grown(tails)
        log.info("resent: %s", facts)

    async def _hub(self) -> "SyncDriver":
        """Wait for a hub that knows what a RESENT record is."""
        link: LinkPart = self.context.parts.get("link")
        while True:
            driver = link.driver
            if driver is not None and driver.epoch:
                if driver.sender.features & Feature.RESENT:
                    self._problem = ""
                    return driver
                self._problem = OLD_HUB
            else:
                self._problem = NO_HUB
            await trio.sleep(LOOK_S)

    async def _send(
        self, driver: "SyncDriver", step: "WalkStep", before: ResendJob, job: ResendJob
    ) -> None:
        recorder, write = self.context.recorder, Write()
        now_ns = self.context.wall_ns()
        series = recorder.store.series
        declared = [one for one in step.series if series.stage(write, Lane.BULK, one, now_ns)]
        write.append(Lane.BULK, RecordKind.RESENT, step.body)
        _put(write, job)
        tails = await recorder.store.submit(write)
        recorder.intake.confirm(declared)
        self._note(before, job)
        recorder.note_grown(tails)
        recorder.flush()
        await driver.wait_floor(Lane.BULK, tails[Lane.BULK])

    def _note(self, before: ResendJob, job: ResendJob) -> None:
        """Note how far `before` has come; a `stop` while that was stored ended it."""
        if self._job is before:
            self._job = job

    def _report(self, write: Write, what: str, facts: Mapping[str, object]) -> None:
        now_ns, edge = self.context.wall_ns(), self.context.settings.edge.name
        body = msgspec.json.encode({"what": what, **facts})
        raw = event_codec.encode(
            EventType.LIFECYCLE, 0, EntityType.EDGE, edge, body, now_ns, now_ns, 0
        )
        write.append(Lane.NORMAL, RecordKind.EVENT, raw)


def _put(write: Write, job: ResendJob) -> None:
    write.put(META, KEY, msgspec.msgpack.encode(job), essential=True)


def _facts(wanted: Range) -> dict[str, object]:
    return msgspec.structs.asdict(wanted)
