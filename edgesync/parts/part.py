"""What a part of a node is, and what it is given.

A part has one job: the store, the link, the keys, a door for other programs. It reaches other parts
by name, through `Context.parts`, so the table (table.py) is the only place that knows its module.
"""

import enum
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync.errors import ConfigError
from edgesync.image import ProcessImage
from edgesync.settings import Settings
from edgesync.sources.base import Source

if TYPE_CHECKING:
    from edgesync.node import EdgeNode
    from edgesync.parts.lifecycle import Parts
    from edgesync.recorder import Recorder

log = logging.getLogger(__name__)

# Between two attempts to open a door whose port is taken, or a file of which is wrong.
RETRY_S: Final = 1.0


class Life(enum.IntEnum):
    """How a node is used. Each life has the parts of those before it, too."""

    CLOSED = 0
    LOCAL = 1  # plain `with`: no tasks
    RUNNING = 2  # `async with`: link and sources
    SERVING = 3  # the daemon: doors for other programs


class Context(msgspec.Struct, kw_only=True):
    """What a node gives its parts.

    node           the node as programs see it; doors answer from it
    settings       current: a reload replaces the sections of sources
    settings_path  the file they were read from; None if they were not
    folder         where relative paths of the settings start
    sources        given by the program, besides those of the settings
    wall_ns        the wall clock; monotonic_ns: a clock nobody sets
    system         root of the file system whose /proc and /sys are read
    is_readonly    a daemon may be running on the same store
    stop           ends the daemon; None where there is none
    """

    node: "EdgeNode"
    settings: Settings
    settings_path: Path | None
    folder: Path
    sources: Sequence[Source]
    wall_ns: Callable[[], int]
    monotonic_ns: Callable[[], int]
    random: Random
    system: Path
    image: ProcessImage
    is_readonly: bool = False
    stop: Callable[[], None] | None = None
    parts: "Parts" = None  # type: ignore[assignment]  # set by Parts

    @property
    def data_dir(self) -> Path:
        return self.folder / self.settings.edge.data_dir

    @property
    def recorder(self) -> "Recorder":
        """The part that owns the store; raises RuntimeError while the node is not open."""
        recorder: Recorder = self.parts.get("recorder")
        return recorder


class Part:
    """One job of a node, in four steps; a part overrides those it needs."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def open(self) -> None:
        """Acquire what is needed, without tasks; when this raises, nothing is held."""

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; `started` when the parts behind this one may start.

        An exception ends the node, and the process with it: the service manager starts a clean one.
        """
        task_status.started()

    def status(self) -> Mapping[str, Any]:
        """Return the fields of `Status` that this part knows."""
        return {}

    def close(self) -> None:
        """Release what `open` acquired; no task of this part is left.

        May wait for the disk: where there are tasks, this runs in a worker thread.
        """


class DoorPart(Part):
    """A part that listens for other programs; while it cannot, the others go on (I8).

    offer     what is missing then, for log and status
    address   setting, port and host
    problem   why the door is closed, until it can be opened; empty while it is open
    """

    offer = "clients"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.problem = ""

    @property
    def address(self) -> str:
        raise NotImplementedError

    async def serve(
        self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer until cancelled; `started` when the door listens.

        Before that raises OSError, as for a port that is taken, and ConfigError for a file of the
        door that is missing or wrong.
        """
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            is_open = await self._open_door(nursery)
            # A door that is closed must not keep a site from being measured.
            task_status.started()
            while not is_open:
                await trio.sleep(RETRY_S)
                is_open = await self._open_door(nursery)

    async def _open_door(self, nursery: trio.Nursery) -> bool:
        """Try to open the door; the log has each reason why not once, and that it is open now."""
        problem = ""
        try:
            await nursery.start(self.serve)
        except* OSError as failed:
            problem = f"no {self.offer}: {self.address}: {_first(failed)}"
        except* ConfigError as failed:
            problem = f"no {self.offer}: {_first(failed)}"
        if problem and problem != self.problem:
            log.error("%s", problem)
        elif self.problem and not problem:
            log.info("%s: the door is open now", self.offer)
        self.problem = problem
        return not problem


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
