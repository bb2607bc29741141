"""EdgeNode: an edge in one `async with`.

    async with EdgeNode("edge.toml") as node:
        await node.ingest([Reading("scale0", "Weight", 412.5, time.time_ns(), unit="kg")])
        await node.sync()

`ingest` and `emit` return when what they were given is on disk (I1); nothing here waits for the hub
but `sync`. That is a Trio program. A plain synchronous program, or one of asyncio, uses
`with EdgeNode.local(path) as node:` and `node.ingest_sync(…)`: local work only, delivered by who
opens the directory with a hub later. `EdgeNode.stored` reads beside a daemon that is running.

The node itself does nothing: its parts do (edgesync/parts/table.py).
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Self

import msgspec

from edgesync import settings as settings_module
from edgesync.cells import Argument, Reply, as_bytes
from edgesync.cells.methods import KeyMethods
from edgesync.entities.methods import EntityMethods
from edgesync.events import EventQuery
from edgesync.health import indicators
from edgesync.image import ProcessImage
from edgesync.loop import awaited, check_runs_on_trio
from edgesync.model import CLOCK_SLACK_NS, Event, Lane, Reading
from edgesync.parts.lifecycle import Parts
from edgesync.parts.part import Context, Life
from edgesync.recorder import STORE as STORE
from edgesync.recorder import Recorder
from edgesync.settings import Settings
from edgesync.sources.base import Source
from edgesync.status import DeadView, EventView, LatestView, Status
from edgesync.store.dead import LISTED, dead_letters
from edgesync.store.journal import EdgeStore

if TYPE_CHECKING:
    from edgesync.objects.part import ObjectsPart
    from edgesync.resources.monitor import ResourceMonitor
    from edgesync.store.edgecells import EdgeCells
    from edgesync.store.points import PointStore, Staged
    from edgesync.sync.cells import CellSync
    from edgesync.watch import KeyWatch

Running = contextlib.AbstractAsyncContextManager[None]


class EdgeNode(KeyMethods, EntityMethods):
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
        self.wall_ns = wall_ns
        read, self.folder, path = settings_module.resolve(settings, folder)
        self._context = Context(
            node=self, settings=read, settings_path=path, folder=self.folder,
            sources=tuple(sources), wall_ns=wall_ns, monotonic_ns=monotonic_ns,
            random=random or SystemRandom(), system=system, image=ProcessImage(read.series.max),
        )  # fmt: skip
        self._parts = Parts(self._context)
        self._running: Running
        self.is_plain = False  # opened with `with`, not with `async with`

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
        node._context.is_readonly = True
        node._parts.open(Life.LOCAL)
        try:
            yield node
        finally:
            node._parts.close(Life.LOCAL)

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._parts.open(Life.LOCAL)
        self.is_plain = True
        return self

    def __exit__(self, *error: object) -> None:
        self._parts.close(Life.LOCAL)

    async def __aenter__(self) -> Self:
        check_runs_on_trio()
        self._running = self._parts.running()
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._running.__aexit__(*error)

    def serving(self, stop: Callable[[], None] | None = None) -> Running:
        """Open the doors that the settings name, as the daemon does; a client may `stop` it."""
        self._context.stop = stop
        return self._parts.living(Life.SERVING)

    async def reload_devices(self) -> tuple[int, int]:
        """Read the settings' file anew and poll the devices it names now.

        Connections whose devices and profiles are unchanged go on undisturbed; the others are
        stopped and started. Everything but the devices stays as it was at the start. Returns how
        many connections were stopped and started; raises ConfigError, and changes nothing.
        """
        changed: tuple[int, int] = await self.part("sources").reload()
        return changed

    # -- parts -----------------------------------------------------------------------------------

    def part(self, name: str) -> Any:
        """Return a part by its name in the table, opened if it is not.

        Raises LookupError for a name that the table has not, RuntimeError while the node is closed.
        """
        return self._parts.get(name)

    @property
    def settings(self) -> Settings:
        return self._context.settings

    @property
    def data_dir(self) -> Path:
        return self._context.data_dir

    @property
    def recorder(self) -> Recorder:
        """What stores readings and events."""
        return self._context.recorder

    @property
    def store(self) -> EdgeStore:
        return self.recorder.store

    @property
    def cells(self) -> "EdgeCells":
        """The local-first store; `command` runs Redis commands on it."""
        cells: EdgeCells = self.part("keys").cells
        return cells

    @property
    def points(self) -> "PointStore":
        """The newest readings of series that are kept at this edge."""
        points: PointStore = self.part("points").store
        return points

    @property
    def objects(self) -> "ObjectsPart":
        """Large objects that the hub has this edge hold: `objects.path("model")` is a file."""
        part: ObjectsPart = self.part("objects")
        return part

    @property
    def cell_sync(self) -> "CellSync | None":
        """What keeps the keys and the hub the same; None without a hub or without keys."""
        keys = self._parts.find("keys")
        return None if keys is None else keys.sync

    @property
    def resources(self) -> "ResourceMonitor | None":
        """Who watches memory, disk, battery; None for an edge without keys and `[resources]`."""
        resources = self._parts.find("resources")
        return None if resources is None else resources.monitor

    # -- in --------------------------------------------------------------------------------------

    @awaited
    async def ingest(self, readings: Sequence[Reading]) -> None:
        """Store readings; on disk when this returns. All or none: raises StoreFull, RecordError."""
        await self.recorder.ingest(readings)

    def ingest_sync(self, readings: Sequence[Reading]) -> None:
        """Do as `ingest` does, from a plain program."""
        self.recorder.ingest_sync(readings)

    def within_limit(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        """Return `readings` without those of series beyond `[series] max`, which are counted."""
        return self.recorder.intake.within_limit(readings)

    @awaited
    async def record(self, staged: "Staged") -> None:
        """Store what `points` has staged; on disk when this returns. All or none."""
        await self.part("points").record(staged)

    def record_sync(self, staged: "Staged") -> None:
        """Do as `record` does, from a plain program."""
        self.part("points").record_sync(staged)

    async def send_windows(self) -> None:
        """Store the windows that have closed; those that find no room wait for the next time."""
        await self.part("points").send_windows()

    @awaited
    async def emit(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        """Store an event; on disk when this returns. Raises StoreFull, RecordError."""
        await self.recorder.emit(event, lane)

    def emit_sync(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        """Do as `emit` does, from a plain program."""
        self.recorder.emit_sync(event, lane)

    @awaited
    async def sync(self, timeout_s: float = float("inf"), *, full: bool = False) -> None:
        """Return once the hub durably has everything stored so far; raises trio.TooSlowError.

        With keys in use: once the hub has carried out what was written to them, and its newest
        state of them is here. `full` opens them: attributes, relations and rule chains of the hub
        are asked for, and all keys compared; where they differ, each tells the other all it has.

        Raises ConfigError when no hub is configured.
        """
        link = self.part("link")
        await (link.sync_full(timeout_s) if full else link.sync(timeout_s))

    # -- keys --------------------------------------------------------------------------------

    def command(self, name: str, *args: Argument) -> Reply:
        """Carry out a Redis command, such as `command("HSET", "h", "f", 1)`; returns its reply.

        What it changed is on disk when this returns, which may take a sync of the disk (I1);
        `execute` does the same without holding up other tasks. Raises CommandError where Redis
        would reply with an error, and StoreError when nothing could be stored.
        """
        reply: Reply = self.part("keys").command(name, args)
        return reply

    @awaited
    async def execute(self, name: str, *args: Argument) -> Reply:
        """Do as `command` does, and let other tasks run until the disk has it.

        Values that were moved to the hub are waited for, if it can be reached.
        """
        reply: Reply = await self.part("keys").execute(name, args)
        return reply

    def watch(self, prefix: Argument = b"", *, limit: int = 1000) -> "KeyWatch":
        """Return the changes of keys with a prefix from here on, whichever site made them.

            async with node.watch("price:") as changes:
                async for change in changes:
                    print(change.key, change.event, change.is_remote)

        At most `limit` wait to be read; beyond it one with the event `overflow` says that some are
        lost. A change is told when it can be read, which may be before it is on disk.
        """
        watch: KeyWatch = self.part("keys").watch(as_bytes(prefix), limit)
        return watch

    # -- out -------------------------------------------------------------------------------------

    def options(self) -> dict[str, object]:
        """Return the settings this node runs with, secrets left out, as `section.name`."""
        return settings_module.options(self.settings)

    def status(self) -> Status:
        """Return how this node is, now."""
        found = Status(**self._parts.status())
        return msgspec.structs.replace(found, indicators=tuple(indicators(found)))

    def busy_s(self) -> float:
        """Return how long the commit under way has taken so far: it grows when a disk is dead."""
        return self.recorder.busy_s()

    def latest(self) -> list[LatestView]:
        """Return the newest reading of each series since the node was opened."""
        return self._context.image.views(self._context.wall_ns() + CLOCK_SLACK_NS)

    def events(self, query: EventQuery | None = None) -> list[EventView]:
        """Return events of the journal, the newest first."""
        return self.recorder.find_events(query or EventQuery())

    def dead(self, limit: int = LISTED) -> list[DeadView]:
        """Return what was refused for good: records by the hub, devices' messages by this edge.

        `replay_dead` sends the records once more, and empties the list.
        """
        return dead_letters(self.store, limit)

    @awaited
    async def replay_dead(self) -> int:
        """Append every dead record that is still in the journal once more; returns how many."""
        count: int = await self.part("link").replay_dead()
        return count
