"""EdgeNode: an edge in one `async with`.

    async with EdgeNode("edge.toml") as node:
        await node.ingest([Reading("scale0", "Weight", 412.5, time.time_ns(), unit="kg")])
        await node.sync()

`ingest` and `emit` return when what they were given is on disk (I1); nothing here waits for the hub
but `sync`. That is a Trio program. A plain synchronous program, or one of asyncio, uses
`with EdgeNode.local(path) as node:` and `node.ingest_sync(…)`: local work only, delivered by who
opens the directory with a hub later. `EdgeNode.stored` reads beside a daemon that is running.
"""

import contextlib
import logging
import os
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Hashable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from random import Random, SystemRandom
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import trio

from edgesync import __version__, events
from edgesync import settings as settings_module
from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.cells import DATABASE as CELLS
from edgesync.cells import Argument, Reply, as_bytes
from edgesync.cells.methods import KeyMethods
from edgesync.errors import ConfigError, RecordError, StoreError, StoreFull
from edgesync.image import ProcessImage
from edgesync.intake import Intake
from edgesync.loop import awaited, check_runs_on_trio
from edgesync.model import (
    Action,
    EntityType,
    Event,
    EventType,
    Lane,
    Reading,
    RecordKind,
)  # fmt: skip
from edgesync.resources.settings import ResourcesSection
from edgesync.settings import Settings
from edgesync.sources.base import Source
from edgesync.sources.running import RunningSources
from edgesync.sources.sink import GatheringSink
from edgesync.status import (
    DeadView,
    EventView,
    LaneStatus,
    LatestView,
    LinkStatus,
    Status,
    StoreStatus,
    resident_bytes,
)
from edgesync.store.dead import DATABASE as DEAD
from edgesync.store.dead import LISTED, dead_letter, dead_letters, replay
from edgesync.store.declare import declare_all, hub_notes, note_hub
from edgesync.store.journal import EdgeStore, Retain
from edgesync.sync.driver import SyncDriver
from edgesync.sync.pace import Pace
from edgesync_transport.sockets import DEFAULT_SETTINGS, LinkSettings

if TYPE_CHECKING:
    from edgesync.resources.monitor import ResourceMonitor
    from edgesync.store.edgecells import EdgeCells
    from edgesync.store.points import PointStore, Staged
    from edgesync.sync.cells import CellSync
    from edgesync.watch import KeyWatch

log = logging.getLogger(__name__)
STORE: Final = "store"
POINTS: Final = "points"  # edgesync/store/points.py
EVENT_BODY_MAX: Final = 60 * 1024
DECLARE_RETRY_S: Final = 30.0
CLOCK_CHECK_S: Final = 1.0
# A step larger than this between two looks is a step, not a slow machine or an NTP slew.
CLOCK_STEP_S: Final = 2.0
READER_CHECK_S: Final = 60.0
# Store, memory and level for the hub's page of this edge: six records an hour, more when a level
# changes; not at once, for an edge that only comes and goes.
REPORT_FIRST_S: Final = 60.0
REPORT_S: Final = 600.0
WINDOWS_CHECK_S: Final = 1.0

TWO_HUBS: Final = (
    "two hubs share one identity, and sessions alternate between them: stop one (a copied folder?)"
)
NOT_JOINED: Final = (
    "this edge has not joined its hub at {}; on the hub `hubd enroll NAME` prints a token, "
    "here `edgesync --config FILE init --token …` takes it"
)


class EdgeNode(KeyMethods):
    """An edge: its store, its devices, its keys and its link, for `async with` or plain `with`.

    settings   a path to edge.toml, `Settings`, or a mapping of the same shape
    sources    besides those the settings name
    wall_ns    the wall clock; readings carry it, order never depends on it (I5)
    monotonic_ns  a clock nobody sets, by which steps of the wall clock are noticed
    system     where /proc and /sys are found: in a container the machine's may be elsewhere
    """

    def __init__(
        self,
        settings: Settings | str | os.PathLike[str] | Mapping[str, Any],
        *,
        folder: Path | None = None,
        sources: Sequence[Source] = (),
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        random: Random | None = None,
        system: Path = Path("/"),
    ) -> None:
        self.settings, self.folder, self._settings_path = settings_module.resolve(settings, folder)
        self.wall_ns, self._monotonic_ns = wall_ns, monotonic_ns
        self._system = system
        self._random = random or SystemRandom()
        self._extra_sources = tuple(sources)
        self._sources: RunningSources | None = None
        self._stack = contextlib.AsyncExitStack()
        self._image = ProcessImage(self.settings.series.max)
        self._readings = self._events = 0
        self._started_at = time.monotonic()
        self._oldest_pending_at: float | None = None
        self.is_plain = False  # opened with `with`, not with `async with`
        self._driver: SyncDriver | None = None
        self._pace: Pace | None = None
        policies = self.settings.sync.policies().items()
        self._giving_way = [lane for lane, one in policies if one.overflow != "refuse"]
        self._nursery: trio.Nursery | None = None
        self._store: EdgeStore | None = None
        self._intake: Intake | None = None
        self._cells: EdgeCells | None = None
        self._watches: list[KeyWatch] = []
        self._cell_sync: CellSync | None = None
        self._resources: ResourceMonitor | None = None
        self._points: PointStore | None = None

    @classmethod
    def local(cls, data_dir: str | os.PathLike[str]) -> Self:
        """Return a node without link and sources, for `with`: `ingest_sync`, `emit_sync`, keys."""
        return cls({"edge": {"data_dir": os.fspath(data_dir)}}, folder=Path())

    @classmethod
    @contextlib.contextmanager
    def stored(cls, settings: Settings | str | os.PathLike[str]) -> Iterator[Self]:
        """Open what an edge has stored, for reading only; its daemon may be running meanwhile.

        `status`, `events`, `latest` and `dead` answer from the disk. Raises StoreUnwritable when
        no store is there.
        """
        node = cls(settings)
        node._store = EdgeStore(
            node.data_dir / STORE,
            map_bytes_max=int(node.settings.store.limit),
            databases=(DEAD, CELLS, POINTS),
            readonly=True,
        )
        try:
            node._image.limit = max(node._image.limit, len(node._store.series))
            node._image.load(events.latest(node._store))
            yield node
        finally:
            node._close_store()

    # -- life ------------------------------------------------------------------------------------

    @property
    def data_dir(self) -> Path:
        return self.folder / self.settings.edge.data_dir

    @property
    def store(self) -> EdgeStore:
        if self._store is None:
            raise RuntimeError("the node is not open; use `async with` or `with`")
        return self._store

    @property
    def cells(self) -> "EdgeCells":
        """The local-first store; `command` runs Redis commands on it."""
        if self._cells is None:
            from edgesync.cells.guard import Guard
            from edgesync.store.edgecells import EdgeCells, told_since  # 2 MB, for those with keys

            wanted = self.settings.cells
            self._cells = EdgeCells(
                self.store,
                told=told_since(self.store),
                scope=wanted.scope(),
                writable=wanted.writable(),
                strategies=wanted.strategies(),
                may_pack=wanted.may_pack,
                value_max=wanted.value_max,
                script_cpu_s=wanted.script_cpu,
                flush=wanted.flush,
                evicts=wanted.eviction == "lru",
                random=self._random,
                wall_ns=self.wall_ns,
                monotonic_ns=self._monotonic_ns,
            )
            self._cells.call.guard = Guard(
                self._cells.rows, self._cells.space, wanted.limits(), self._cells.make_room
            )
            if self._nursery is not None:
                self._watch_resources(self._nursery)
                every_s = wanted.commit_every_s()
                self._nursery.start_soon(self._cells.keep_committing, every_s)
                self._start_cell_sync(self._nursery)
        return self._cells

    @property
    def cell_sync(self) -> "CellSync | None":
        """What keeps the keys and the hub the same; None without a hub or without keys."""
        return self._cell_sync

    def options(self) -> dict[str, object]:
        """Return the settings this node runs with, secrets left out, as `section.name`."""
        return settings_module.options(self.settings)

    def _start_cell_sync(self, nursery: trio.Nursery) -> None:
        """Keep keys and hub the same, once there are both a link and keys."""
        if self._driver is None or self._cells is None or self._cell_sync is not None:
            return
        from edgesync.sync.cells import FIRST_CHECK_S, CellSync

        self._cell_sync = CellSync(
            self._cells, self._driver, interval_s=self._sync_interval_s, wall_ns=self.wall_ns,
            first_check_s=self._random.uniform(0, FIRST_CHECK_S),
        )  # fmt: skip
        nursery.start_soon(self._cell_sync.run)

    def _sync_interval_s(self) -> float:
        wanted = float(self.settings.sync.interval)
        return wanted if self._resources is None else self._resources.interval_s(wanted)

    @property
    def resources(self) -> "ResourceMonitor | None":
        """Who watches memory, disk, battery; None for an edge without keys and `[resources]`."""
        return self._resources

    def _watch_resources(self, nursery: trio.Nursery) -> None:
        if self._resources is not None:
            return
        from edgesync.resources.edge import monitor_of  # for those who want it

        self._resources = monitor_of(
            self.store,
            self.settings.resources,
            cells=lambda: self._cells,
            link=self._link_status,
            sync_now=self._sync_soon,
            may_pack=self.settings.cells.may_pack,
            may_evict=self.settings.cells.eviction == "lru",
            root=self._system,
        )
        nursery.start_soon(self._resources.run)

    def _sync_soon(self) -> None:
        if self._cell_sync is not None:
            self._cell_sync.hurry()
        elif self._driver is not None:
            self._driver.retry_now()

    @property
    def points(self) -> "PointStore":
        """The newest readings of series that are kept at this edge."""
        if self._points is None:
            from edgesync.store.points import PointStore

            assert self._intake is not None, "the node is not open"
            wanted = self.settings.series
            self._points = PointStore(
                self.store,
                self._intake,
                keep=wanted.keep,
                age_ns=round(wanted.age * 1e9),
                series_max=wanted.max,
                rules=wanted.rollup,
                wall_ns=self.wall_ns,
            )
            self._image.suppliers.append(self._points.latest)
            if wanted.rollup and self._nursery is not None:
                self._nursery.start_soon(self._keep_sending_windows)
        return self._points

    def _open(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        section = self.settings.store
        self._store = EdgeStore(
            self.data_dir / STORE,
            map_bytes_max=int(section.limit),
            retain=Retain(nbytes=int(section.retain)),
            databases=(DEAD, CELLS, POINTS),
            replace_unreadable=True,
            clock_ns=self.wall_ns,
            overflow=self.settings.sync.policies(),
        )
        self._intake = Intake(self._store.series, series_max=self.settings.series.max)
        self._image.limit = max(self._image.limit, len(self._store.series))
        self._started_at = time.monotonic()
        if self._store.moved_to is not None:
            moved = {"moved_to": str(self._store.moved_to), "reason": "unreadable at start"}
            self.emit_sync(self._lifecycle("store_replaced", moved), Lane.CRITICAL)

    def __enter__(self) -> Self:
        self._open()
        self.is_plain = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_watches()
        try:
            if self._cells is not None:
                self._cells.settle()
        finally:
            self._close_store()

    async def __aenter__(self) -> Self:
        check_runs_on_trio()
        async with contextlib.AsyncExitStack() as stack:
            self._open()
            stack.push_async_callback(self._close)
            await self._tell(self._lifecycle("started", {"version": __version__}))
            nursery = await stack.enter_async_context(_cancelled_at_exit())
            self._nursery = nursery
            await self._start_link(nursery)
            await self._start_sources(nursery)
            nursery.start_soon(self._watch_clock)
            nursery.start_soon(self._care_for_store)
            nursery.start_soon(self._keep_reporting)
            if self.settings.resources != ResourcesSection():
                self._watch_resources(nursery)
            if self.settings.series.rollup:
                _ = self.points  # sends what was stored and not sent before the last end
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def _end_watches(self) -> None:
        while self._watches:
            self._watches.pop().close()

    async def _close(self) -> None:
        self._end_watches()
        with trio.CancelScope(shield=True):
            try:
                if self.store.commit.broken is None:
                    if self._cells is not None:
                        # The link is closed, and could not be told anything from that thread.
                        self._cells.on_told = lambda tails: None
                        await trio.to_thread.run_sync(self._cells.settle)
                    await self._tell(self._lifecycle("stopped", {}))
            finally:
                await trio.to_thread.run_sync(self._close_store)

    def _close_store(self) -> None:
        if self._cells is not None:
            self._cells.close()
        self.store.close()
        self._store = self._cells = self._cell_sync = None
        self._resources = self._points = None
        self._image.suppliers.clear()

    async def _start_link(self, nursery: trio.Nursery) -> None:
        hub = self.settings.hub
        if hub.unjoined:
            log.warning("working alone: %s", NOT_JOINED.format(hub.unjoined))
        if not hub.endpoint:
            return
        # Imported when there is a hub: an edge that works alone does without ZeroMQ's memory.
        from edgesync_transport.dealer import open_connect

        pair = settings_module.link_keys(self.settings, self.folder)
        sync = self.settings.sync
        vanished_s = max(sync.heartbeat * sync.heartbeats_missed_max, DEFAULT_SETTINGS.vanished_s)

        notes = hub_notes(self.store)
        if notes.is_owed:
            nursery.start_soon(self._declare_again, notes.generation, True)

        async def run(*, task_status: trio.TaskStatus[SyncDriver]) -> None:
            async with open_connect(
                hub.endpoint,
                server_key=hub.server_key,
                keys=pair,
                settings=LinkSettings(vanished_s=vanished_s),
            ) as connect:
                made = SyncDriver(
                    self.store,
                    connect,
                    self,
                    settings=sync.sender(f"edgesync {__version__}"),
                    backoff=sync.backoff(),
                    breaker=sync.breaker(),
                    random=self._random,
                    wall_ns=self.wall_ns,
                    generation=notes.generation,
                )
                task_status.started(made)
                await made.run()

        self._driver = await nursery.start(run)
        self._pace = Pace(float(sync.interval), self._driver.grown)
        nursery.start_soon(self._pace.run)
        if self.store.store.count(CELLS):
            self.cells.note_changes()  # what is there is to be kept the same as the hub's
        self._start_cell_sync(nursery)

    async def _start_sources(self, nursery: trio.Nursery) -> None:
        self._sources = RunningSources(nursery, GatheringSink(self, nursery), self._random)
        await self._sources.change_to(self._sources_of(self.settings))

    def _sources_of(self, settings: Settings) -> dict[Hashable, Source]:
        made: dict[Hashable, Source] = {id(source): source for source in self._extra_sources}
        if settings.modbus:
            from edgesync.sources.modbus.source import modbus_sources

            found = modbus_sources(settings.modbus, folder=self.folder, wall_ns=self.wall_ns)
            made |= {source.key: source for source in found}
        return made

    async def reload_devices(self) -> tuple[int, int]:
        """Read the settings' file anew and poll the devices it names now.

        Connections whose devices and profiles are unchanged go on undisturbed; the others are
        stopped and started. Everything but the devices stays as it was at the start. Returns how
        many connections were stopped and started; raises ConfigError, and changes nothing.
        """
        if self._settings_path is None or self._sources is None:
            raise ConfigError(
                file="settings", field="(file)", problem="were not read from a file",
                remedy="open the node with a path to edge.toml",
            )  # fmt: skip
        settings = settings_module.read_settings(self._settings_path)
        changed = await self._sources.change_to(self._sources_of(settings))
        self._sources.retry_now()  # whoever changed a cable does not want to wait for the back-off
        self.settings = msgspec.structs.replace(self.settings, modbus=settings.modbus)
        return changed

    # -- in --------------------------------------------------------------------------------------

    @awaited
    async def ingest(self, readings: Sequence[Reading]) -> None:
        """Store readings; on disk when this returns. All or none: raises StoreFull, RecordError."""
        assert self._intake is not None, "the node is not open"
        if not readings:
            return
        write = Write()
        declared = self._intake.stage(write, readings)
        with self._also_kept(write, readings):
            tails = await self.store.submit(write)
        self._intake.confirm(declared)
        self._note_readings(readings)
        self._note_grown(tails)
        if self.settings.series.ingested:
            self._flush_soon()

    def within_limit(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        """Return `readings` without those of series beyond `[series] max`, which are counted."""
        assert self._intake is not None, "the node is not open"
        return self._intake.within_limit(readings)

    def ingest_sync(self, readings: Sequence[Reading]) -> None:
        """Do as `ingest` does, from a plain program."""
        assert self._intake is not None, "the node is not open"
        if not readings:
            return
        write = Write()
        declared = self._intake.stage(write, readings)
        with self._also_kept(write, readings):
            self.store.submit_sync(write)
        self._intake.confirm(declared)
        self._note_readings(readings)
        if self.settings.series.ingested:
            self._flush_sync()

    def _also_kept(
        self, write: Write, readings: Sequence[Reading]
    ) -> contextlib.AbstractContextManager[None]:
        """Keep them here too, if the settings say so; what is inside carries `write` out."""
        if not self.settings.series.ingested:
            return contextlib.nullcontext()
        return self.points.keeping(write, readings)

    @awaited
    async def record(self, staged: "Staged") -> None:
        """Store what `points` has staged; on disk when this returns. All or none."""
        with self.points.carried_out(staged):
            tails = await self.store.submit(staged.write)
        self._readings += staged.readings
        self._note_grown(tails)
        self._flush_soon()
        await self.send_windows()

    def record_sync(self, staged: "Staged") -> None:
        """Do as `record` does, from a plain program."""
        with self.points.carried_out(staged):
            self.store.submit_sync(staged.write)
        self._readings += staged.readings
        self._flush_sync()
        with _may_wait("windows"), self.points.sending_windows() as write:
            if write is not None:
                self.store.submit_sync(write)

    def _flush_sync(self) -> None:
        flushed = self.points.flush()
        if flushed is not None:
            with _may_wait("recent readings"), self.points.carried_out(flushed):
                self.store.submit_sync(flushed.write)

    def _flush_soon(self) -> None:
        """Nobody who has stored readings waits for what becomes of them here."""
        flushed = self.points.flush()
        if flushed is None:
            return
        assert self._nursery is not None
        self._nursery.start_soon(self._carry_out, flushed)

    async def _carry_out(self, flushed: "Staged") -> None:
        with _may_wait("recent readings"), self.points.carried_out(flushed):
            await self.store.submit(flushed.write)

    async def send_windows(self) -> None:
        """Store the windows that have closed; those that find no room wait for the next time."""
        with _may_wait("windows"), self.points.sending_windows() as write:
            if write is not None:
                self._note_grown(await self.store.submit(write))

    async def _keep_sending_windows(self) -> None:
        """Close windows of series that fell silent."""
        while True:
            await trio.sleep(WINDOWS_CHECK_S)
            await self.send_windows()

    @awaited
    async def emit(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        """Store an event; on disk when this returns. Raises StoreFull, RecordError."""
        tails = await self.store.submit(self._event_write(event, lane))
        self._events += 1
        self._note_grown(tails)

    def emit_sync(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        """Do as `emit` does, from a plain program."""
        self.store.submit_sync(self._event_write(event, lane))
        self._events += 1

    def _event_write(self, event: Event, lane: Lane) -> Write:
        if len(event.body) > EVENT_BODY_MAX:
            raise RecordError(f"an event's body is at most {EVENT_BODY_MAX} bytes")
        raw = event_codec.encode(
            event.type,
            event.action,
            event.entity_type,
            event.entity_id,
            event.body,
            event.time_ns,
            event.created_ns or self.wall_ns(),
            event.hlc,
        )
        write = Write()
        write.append(lane, RecordKind.EVENT, raw)
        return write

    def _note_readings(self, readings: Sequence[Reading]) -> None:
        self._readings += len(readings)
        self._image.update(readings)

    def _note_grown(self, tails: tuple[int, int, int]) -> None:
        if self._oldest_pending_at is None:
            self._oldest_pending_at = time.monotonic()
        if self._pace is not None and self._driver is not None:
            for lane in self._giving_way:
                self._driver.gone(lane, self.store.state(lane).trimmed)
            self._pace.grown(tails)

    @awaited
    async def sync(self, timeout_s: float = float("inf")) -> None:
        """Return once the hub durably has everything stored so far; raises trio.TooSlowError.

        With keys in use: once the hub has carried out what was written to them, and its newest
        state of them is here.

        Raises ConfigError when no hub is configured.
        """
        if self._driver is None:
            raise ConfigError(
                file="settings",
                field="hub.endpoint",
                problem="is empty, so there is nothing to sync with",
                remedy="join a hub with `edgesync init --token …`",
            )
        self._driver.retry_now()
        if self._pace is not None:
            self._pace.flush()
        with trio.fail_after(timeout_s):
            await self._driver.wait_durable(self._tails())
            if self._cell_sync is not None:
                await self._cell_sync.sync()

    def _tails(self) -> tuple[int, int, int]:
        first, second, third = (self.store.state(lane).tail for lane in Lane)
        return (first, second, third)

    # -- keys --------------------------------------------------------------------------------

    def command(self, name: str, *args: Argument) -> Reply:
        """Carry out a Redis command, such as `command("HSET", "h", "f", 1)`; returns its reply.

        What it changed is on disk when this returns, which may take a sync of the disk (I1);
        `execute` does the same without holding up other tasks. Raises CommandError where Redis
        would reply with an error, and StoreError when nothing could be stored.
        """
        reply = self.cells.ask(name, args)
        self.cells.commit()
        return reply

    def watch(self, prefix: Argument = b"", *, limit: int = 1000) -> "KeyWatch":
        """Return the changes of keys with a prefix from here on, whichever site made them.

            async with node.watch("price:") as changes:
                async for change in changes:
                    print(change.key, change.event, change.is_remote)

        At most `limit` wait to be read; beyond it one with the event `overflow` says that some are
        lost. A change is told when it can be read, which may be before it is on disk.
        """
        from edgesync.watch import KeyWatch

        watch = KeyWatch(self.cells.changes, as_bytes(prefix), limit)
        self._watches.append(watch)
        return watch

    @awaited
    async def execute(self, name: str, *args: Argument) -> Reply:
        """Do as `command` does, and let other tasks run until the disk has it.

        Values that were moved to the hub are waited for, if it can be reached.
        """
        if self._cell_sync is None:
            reply = self.cells.ask(name, args)
        else:
            reply = await self._cell_sync.ask(name, args)
        await self.cells.wait_durable()
        return reply

    # -- what the driver tells -------------------------------------------------------------------

    def link_report(self, kind: str, facts: Mapping[str, str | int | float]) -> None:
        """Log what happened to the link; what an operator must see becomes an event."""
        level = logging.ERROR if kind == "two_hubs" else logging.INFO
        log.log(level, "link: edge=%s %s %s", self.settings.edge.name, kind, dict(facts))
        if kind in ("fork", "rewind", "clock_skew", "hub_generation", "two_hubs"):
            self._emit_soon(self._lifecycle(kind, facts), Lane.NORMAL)

    def hub_forgot(self, generation: bytes) -> None:
        """Declare all series again, to a hub that lost something; note a hub met first."""
        notes = hub_notes(self.store)
        is_owed = notes.is_owed or bool(notes.generation)
        if self._nursery is not None:
            self._nursery.start_soon(self._declare_again, generation, is_owed)

    async def _declare_again(self, generation: bytes, is_owed: bool) -> None:
        while True:
            try:
                await note_hub(self.store, generation, is_owed=is_owed)
                if is_owed:
                    count = await declare_all(self.store, self.wall_ns, self._note_grown)
                    log.info("link: %d series declared again", count)
                    await note_hub(self.store, generation, is_owed=False)
            except StoreError as error:  # a full store, for now: I8
                log.error("series are declared again later: %s", error)
                await trio.sleep(DECLARE_RETRY_S)
            else:
                return

    def record_dead(self, lane: Lane, seq: int, reason: str) -> None:
        """Note that the hub refused a record for good, and why."""
        write = dead_letter(lane, seq, reason, self.wall_ns())
        if self._nursery is not None:
            self._nursery.start_soon(self.store.submit, write)

    def records_lost(self, lane: Lane, first: int, last: int, reason: str) -> None:
        """Store a loss record for `first` to `last` of a lane."""
        loss = {"lane": int(lane), "first": first, "last": last, "reason": reason}
        now = self.wall_ns()
        body = msgspec.json.encode(loss)
        self._emit_soon(Event(type=EventType.LOSS, body=body, time_ns=now), Lane.CRITICAL)

    def _emit_soon(self, event: Event, lane: Lane) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._tell, event, lane)

    async def _tell(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        """Store what the edge has to say of itself; a full store ends nothing (I8)."""
        try:
            await self.emit(event, lane)
        except StoreFull as full:
            log.error("not stored: %s: %s", event.body.decode(), full)

    def _lifecycle(self, what: str, facts: Mapping[str, str | int | float]) -> Event:
        return Event(
            type=EventType.LIFECYCLE,
            action=Action.NONE,
            entity_type=EntityType.EDGE,
            entity_id=self.settings.edge.name,
            body=msgspec.json.encode({"what": what, **facts}),
            time_ns=self.wall_ns(),
        )

    # -- care ------------------------------------------------------------------------------------

    async def _watch_clock(self) -> None:
        """Tell when the wall clock steps: order does not mind, people reading times do (S25)."""
        offset_s = self.wall_ns() / 1e9 - time.monotonic()
        while True:
            await trio.sleep(CLOCK_CHECK_S)
            now_s = self.wall_ns() / 1e9 - time.monotonic()
            if abs(now_s - offset_s) > CLOCK_STEP_S:
                step = {"step_s": round(now_s - offset_s, 3)}
                log.warning("wall clock stepped: by %.3f s", step["step_s"])
                if self._cells is not None:
                    self._cells.now_ms()  # notices it
                await self._tell(self._lifecycle("clock_stepped", step))
            offset_s = now_s

    async def _keep_reporting(self) -> None:
        """Tell the hub of this edge's own resources now and then, and when their level changes."""
        await trio.sleep(REPORT_FIRST_S)
        told, at_s = "", float("-inf")
        while True:
            level = self._resources.level if self._resources else "unwatched"
            now_s = trio.current_time()
            if level != told or now_s - at_s >= REPORT_S:
                told, at_s = level, now_s
                await self._tell(self._lifecycle("resources", self._resource_facts(level)))
            await trio.sleep(REPORT_FIRST_S)

    def _resource_facts(self, level: str) -> dict[str, str | int | float]:
        return {
            "level": level,
            "store_used_bytes": self.store.store.used_bytes,
            "store_limit_bytes": self.store.store.map_bytes_max,
            "rss_bytes": resident_bytes(),
        }

    async def _care_for_store(self) -> None:
        while True:
            await trio.sleep(READER_CHECK_S)
            await trio.to_thread.run_sync(self.store.store.check_readers)

    # -- out -------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return how this node is, now."""
        stats = self.store.commit.stats()
        logged = 0 if self._cells is None else self._cells.logged
        lanes = tuple(self._lane_status(lane) for lane in Lane)
        if not any(lane.pending for lane in lanes):
            self._oldest_pending_at = None
        oldest = self._oldest_pending_at
        broken = self.store.commit.broken
        return Status(
            edge=self.settings.edge.name,
            version=__version__,
            running=self._nursery is not None,
            incarnation=self.store.incarnation.hex(),
            uptime_s=time.monotonic() - self._started_at,
            readings=self._readings,
            events=self._events,
            series=len(self.store.series),
            series_max=self.settings.series.max,
            series_refused=0 if self._intake is None else self._intake.refused,
            granted=self._granted(),
            dead=self.store.store.count(DEAD),
            oldest_pending_s=None if oldest is None else time.monotonic() - oldest,
            lanes=lanes,
            link=self._link_status(),
            store=StoreStatus(
                path=self.store.path,
                used_bytes=self.store.store.used_bytes,
                limit_bytes=self.store.store.map_bytes_max,
                commits=stats.groups + logged,
                last_commit_s=stats.last_commit_s,
                problem=str(broken) if broken else "",
                quarantined=len(self.store.quarantined()),
            ),
            sources=() if self._sources is None else self._sources.statuses(),
            rss_bytes=resident_bytes(),
            resource_level=self._resources.level if self._resources else "unwatched",
        )

    def busy_s(self) -> float:
        """Return how long the commit under way has taken so far: it grows when a disk is dead."""
        keys_s = 0.0 if self._cells is None else self._cells.busy_s()
        return max(keys_s, self.store.commit.stats().busy_s)

    def _lane_status(self, lane: Lane) -> LaneStatus:
        state = self.store.state(lane)
        window = self._driver.sender.lanes[lane] if self._driver else None
        floor = window.floor if window else state.floor
        overflow = self.store.overflow
        shed = overflow.shed(lane)
        return LaneStatus(
            lane=lane.name.lower(),
            tail=state.tail,
            sent=window.sent if window else floor,
            floor=floor,
            safe=state.safe,
            trimmed=state.trimmed,
            pending=state.tail - max(floor, state.trimmed),
            stored_bytes=state.stored_bytes,
            overflow=overflow.overflow(lane),
            refused=overflow.refused[lane],
            dropped=shed.records,
            dropped_readings=shed.readings,
        )

    def _granted(self) -> tuple[str, ...]:
        grant = () if self._cells is None else self._cells.cursor.grant
        return tuple(prefix.decode(errors="replace") for prefix in grant)

    def _link_status(self) -> LinkStatus:
        hub = self.settings.hub
        endpoint = hub.endpoint or hub.url
        if self._driver is None:
            problem = NOT_JOINED.format(hub.url) if hub.unjoined else "no hub configured"
            if self._nursery is None and hub.endpoint:
                problem = "no daemon runs here: `edgesync run` starts it"
            return LinkStatus(state="Disconnected", endpoint=endpoint, problem=problem)
        sender = self._driver.sender
        return LinkStatus(
            state=sender.status().value,
            endpoint=endpoint,
            problem=(TWO_HUBS if sender.two_hubs else "")
            if sender.epoch
            else self._driver.last_problem,
            epoch=sender.epoch,
            rtt_s=sender.rtt_s,
            clock_offset_s=sender.clock_offset_s,
            breaker=self._driver.breaker.state(trio.current_time()).value,
            reconnects=self._driver.reconnects,
            restore_safe=sender.restore_safe,
            two_hubs=sender.two_hubs,
            slowed=sender.slowed(trio.current_time()),
        )

    def latest(self) -> list[LatestView]:
        """Return the newest reading of each series since the node was opened."""
        return self._image.views()

    def events(self, query: events.EventQuery | None = None) -> list[EventView]:
        """Return events of the journal, the newest first."""
        sent = [self._lane_status(lane).sent for lane in Lane]
        floors = [self._lane_status(lane).floor for lane in Lane]
        dead = {(one.lane, one.seq) for one in self.dead()}
        return list(events.find(self.store, query or events.EventQuery(), floors, sent, dead))

    def dead(self, limit: int = LISTED) -> list[DeadView]:
        """Return the records the hub refused for good; `replay_dead` sends them once more."""
        return dead_letters(self.store, limit)

    @awaited
    async def replay_dead(self) -> int:
        """Append every dead record that is still in the journal once more; returns how many."""
        write, count = replay(self.store)
        if len(write):
            self._note_grown(await self.store.submit(write))
        return count


@contextlib.contextmanager
def _may_wait(what: str) -> Iterator[None]:
    """The readings in them are stored; an error now would say that they are not."""
    try:
        yield
    except StoreError as error:
        log.warning("%s wait for room: %s", what, error)


@contextlib.asynccontextmanager
async def _cancelled_at_exit() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()
