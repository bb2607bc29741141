"""Devices that wait for what the hub has for them: a call, or shared attributes that changed.

A device that polls is there from poll to poll. A call counts as delivered when its answer was
written to the connection, and changes as told; what could not be written is there at the next poll.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync.serve.devices.attributes import SHARED, Entities, HeardAttributes
from edgesync.serve.devices.calls import Rpc

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgesync.entities.model import EntityId
    from edgesync.rpc.queue import Call

# Devices of which it is known what they were told; beyond, those told longest ago are forgotten.
TOLD_MAX: Final = 10_000


class CallPoll:
    """A device that waits for one call (edgesync.parts.rpc.Speaker)."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self._has_come = trio.Event()

    def send_call(self, call: "Call") -> bool | None:
        if self.call is not None:
            return None
        self.call = call
        self._has_come.set()
        return True

    async def next_call(self) -> "Call":
        await self._has_come.wait()
        assert self.call is not None
        return self.call


@contextmanager
def waiting_for_call(rpc: Rpc, device: str) -> Iterator[CallPoll]:
    """Speak for a device for as long as the block takes."""
    poll = CallPoll()
    rpc.attach(device, poll)
    try:
        yield poll
    finally:
        rpc.detach(device, poll)


class PolledAttributes(HeardAttributes):
    """Attributes of devices that ask for what has changed since they were told the last time."""

    def __init__(self, open_entities: Callable[[], Entities]) -> None:
        super().__init__(open_entities)
        self._told: dict[str, dict[str, Any]] = {}
        self._changes: dict[str, trio.Event] = {}

    def read(self, name: str, scope: str, names: "Collection[str] | None" = None) -> dict[str, Any]:
        if scope == SHARED:
            self._shared(name)
        return super().read(name, scope, names)

    async def next_body(self, name: str) -> tuple[bytes, Callable[[], None]]:
        """Wait for changes; returns them, and what to call when the device has them."""
        from edgesync.entities.attributes import changes  # with the keys, which are open by now

        before = self._shared(name)
        while True:
            has_changed = self._changes.setdefault(name, trio.Event())
            now = super().read(name, SHARED)
            changed, gone = changes(before, now)
            if changed or gone:
                said = changed | ({"deleted": gone} if gone else {})
                return msgspec.json.encode(said), partial(self._note, name, now)
            await has_changed.wait()

    def _shared(self, name: str) -> dict[str, Any]:
        """Return the shared attributes that a device knows: at first, those it could ask for."""
        if name not in self._told:
            self._note(name, super().read(name, SHARED))
        return self._told[name]

    def _note(self, name: str, values: dict[str, Any]) -> None:
        self._told.pop(name, None)
        self._told[name] = values
        if len(self._told) > TOLD_MAX:
            del self._told[next(iter(self._told))]

    def _changed(self, room: bytes, one: "EntityId") -> None:
        if room == SHARED.encode() and one.kind == "device" and one.name in self._changes:
            self._changes.pop(one.name).set()
