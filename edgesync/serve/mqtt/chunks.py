"""Chunks of firmware on their way to MQTT clients: few at a time, as they are large."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from edgesync.serve.devices.package import NoPackage
from edgesync.serve.devices.package_folder import PackageFolder
from edgesync.serve.mqtt.packets import Reason
from edgesync.serve.mqtt.steps import Deliver, Event, Expelled, Reply

if TYPE_CHECKING:
    from edgesync.serve.devices.thingsboard import PackageRequest
    from edgesync.serve.mqtt.client import Client

# On their way at a time, of a MiB at most: others wait.
CHUNKS_AT_A_TIME: Final = 32
CHUNKS_OF_A_CLIENT: Final = 8
# A client that takes nothing for so long is sent away.
TAKE_S: Final = 30.0


class ChunkSender:
    """Answers requests for chunks.

    step   has a client's connection take an event, and sends what comes of it
    note   what was refused: client, topic, problem
    """

    def __init__(
        self,
        folder: PackageFolder,
        step: Callable[["Client", Event], None],
        note: Callable[["Client", str, str], None],
    ) -> None:
        self._folder = folder
        self._step = step
        self._note = note
        self._limiter = trio.CapacityLimiter(CHUNKS_AT_A_TIME)

    async def send(self, client: "Client", request: "PackageRequest") -> None:
        if client.chunks >= CHUNKS_OF_A_CLIENT:
            self._refuse(client, request, f"{CHUNKS_OF_A_CLIENT} chunks are asked for already")
            return
        client.chunks += 1
        try:
            async with self._limiter:
                await self._send(client, request)
        finally:
            client.chunks -= 1

    async def _send(self, client: "Client", request: "PackageRequest") -> None:
        try:
            if request.package is None:
                raise NoPackage(request.problem)
            data = await self._folder.chunk(request.package, request.number, request.size)
            if not client.connection.takes(request.topic, len(data)):
                raise NoPackage(f"a chunk of {len(data)} bytes is larger than the packets it takes")
        except NoPackage as error:
            self._refuse(client, request, str(error))
            return
        self._step(client, Reply(request.topic, data))
        while client.out and not client.is_closing:
            before, taken = client.sent_bytes, client.will_be_taken()
            with trio.move_on_after(TAKE_S):
                await taken.wait()
                return
            if client.sent_bytes == before:
                self._step(client, Expelled(Reason.QUOTA_EXCEEDED, "it does not take its chunk"))

    def _refuse(self, client: "Client", request: "PackageRequest", problem: str) -> None:
        self._note(client, request.topic, problem)
        self._step(client, Deliver(request.error_topic, problem.encode()))
