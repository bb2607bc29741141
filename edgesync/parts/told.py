"""What the hub tells this edge besides state and calls of devices, and calls of the edge itself.

Events are kept in the journal as they came, in the transaction of the floor, so the hub sees that
they are here; readings are stored as readings, credentials in a file first, once a batch. A call of
the edge itself (`@edge`) asks it to sync.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.errors import ConfigError, EdgesyncError
from edgesync.model import Action, Event, EventType, Lane, RecordKind
from edgesync.parts.part import Context, Part
from edgesync.rpc.model import SELF, SYNC
from edgesync.rpc.queue import Call, UnknownCall
from edgesync.told import credentials_of, readings_of

if TYPE_CHECKING:
    from edgesync.parts.link import LinkPart
    from edgesync.parts.rpc import RpcPart

log = logging.getLogger(__name__)

KINDS: Final = (EventType.ENTITY, EventType.TELEMETRY, EventType.CUSTOM)
# A sync that takes longer is answered with that; it goes on.
SYNC_S: Final = 600.0


class ToldPart(Part):
    """See the module. Whom the link gives such events (`inbound.Handler`), and who is `@edge`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._calls, self._asked = trio.open_memory_channel[Call](100)
        self._rpc: RpcPart

    def open(self) -> None:
        link: LinkPart = self.context.parts.get("link")
        link.handlers.update(dict.fromkeys(KINDS, self))
        self._rpc = self.context.parts.get("rpc")

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        self._rpc.attach_self(self)
        task_status.started()
        async for call in self._asked:
            self._rpc.delivered(SELF, call.number)
            await self._answer(call)

    # -- events (edgesync.sync.inbound.Handler) ----------------------------------------------------

    def stage(self, write: Write, event: Event) -> Callable[[], None]:
        if (event.type, event.action) == (EventType.TELEMETRY, Action.TIMESERIES_UPDATED):
            return self._stage_readings(write, event)
        told = credentials_of(event) if self.has_file(event) else None
        raw = event_codec.encode(
            event.type, event.action, event.entity_type, event.entity_id, event.body,
            event.time_ns, event.created_ns, event.hlc,
        )  # fmt: skip
        write.append(Lane.NORMAL, RecordKind.EVENT, raw)
        if told is None:
            return _nothing
        return lambda: log.info("credentials: device=%s by=%s", event.entity_id, told.by)

    def _stage_readings(self, write: Write, event: Event) -> Callable[[], None]:
        recorder = self.context.recorder
        readings = readings_of(event, self.context.wall_ns())
        if not readings:
            return _nothing
        staged = recorder.intake.stage(write, readings)
        return lambda: recorder.note_readings(readings, staged)

    def has_file(self, event: Event) -> bool:
        return (event.type, event.action) == (EventType.ENTITY, Action.CREDENTIALS_UPDATED)

    def write_files(self, events: Sequence[Event]) -> None:
        """Let devices in by what a batch says of their credentials, the last of each."""
        from edgesync.serve.devices.told import set_tokens
        from edgesync.sync.inbound import NoRoom

        tokens = {one.entity_id: credentials_of(one).token_sha256 for one in events}
        try:
            set_tokens(self.context.data_dir, tokens)
        except (OSError, ConfigError) as error:  # it is tried again; one too many never fits
            raise NoRoom(f"credentials of {len(tokens)} devices: {error}") from error

    # -- calls (edgesync.parts.rpc.Speaker) --------------------------------------------------------

    def send_call(self, call: Call) -> bool | None:
        try:
            self._calls.send_nowait(call)
        except trio.WouldBlock:
            return None
        self._rpc.sent(SELF, call.number)
        return True

    async def _answer(self, call: Call) -> None:
        answer, error = None, ""
        try:
            if call.method != SYNC:
                raise EdgesyncError(f"an edge has no method {call.method!r}; {SYNC} it has")
            answer = msgspec.Raw(
                msgspec.json.encode(await self._sync(msgspec.json.decode(call.params)))
            )
        except trio.TooSlowError:
            error = f"not done in {SYNC_S:.0f} s; it goes on"
        except EdgesyncError as failed:
            error = str(failed)
        except Exception as failed:  # A bug of ours costs this call: I8.
            log.exception("a call of the edge failed: %s", call.method)
            error = f"the edge failed: {failed!r}"
        with contextlib.suppress(UnknownCall):  # its time had passed long ago
            self._rpc.take_answer(SELF, call.number, answer, error)

    async def _sync(self, params: Any) -> Mapping[str, Any]:
        """Return once the hub has all that is here and what it had is here; compare if asked to."""
        is_full = not isinstance(params, dict) or params.get("full") is not False
        link: LinkPart = self.context.parts.get("link")
        found: Mapping[str, bool] = {"compared": False, "differed": False}
        if is_full:
            found = await link.sync_full(SYNC_S)
        else:
            await link.sync(SYNC_S)
        tails = self.context.recorder.tails()
        return {
            "full": is_full,
            **found,
            "records": {lane.name.lower(): tail for lane, tail in zip(Lane, tails, strict=True)},
        }


def _nothing() -> None:
    """What is done after a commit that changed nothing in memory."""
