"""A connection that is there already, as something that libzmq can connect to.

A Unix socket in a folder that only this user may enter, for one connection, which it passes on. It
ends when either side does; after the link's end what was sent last has a moment to leave.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Final

import trio

CHUNK_BYTES: Final = 64 * 1024


class Carrier:
    """See the module.

    stream      to the hub
    early       what has come over it already
    link_gone   set when the link has closed its own socket
    farewell_s  what was sent before then has so long to leave
    """

    def __init__(
        self, stream: trio.SocketStream, early: bytes, link_gone: trio.Event, farewell_s: float
    ) -> None:
        self._stream = stream
        self._early = early
        self._link_gone = link_gone
        self._farewell_s = farewell_s

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell the endpoint for libzmq, and pass on what comes until either side is at its end.

        It is not cancelled, for a Bye would be lost: the link's end is its own.
        """
        with trio.CancelScope(shield=True) as scope:
            async with self._stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._end_with_link, scope)
                local = await self._accept(task_status)
                async with local:
                    await local.send_all(self._early)
                    nursery.start_soon(self._pass_on, self._stream, local, scope)
                    await self._pass_on(local, self._stream, scope)

    async def _accept(self, task_status: trio.TaskStatus[str]) -> trio.SocketStream:
        folder = await trio.to_thread.run_sync(tempfile.mkdtemp, "", "edgesync-")
        try:
            with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as listening:
                await listening.bind(str(Path(folder) / "hub"))
                listening.listen(1)
                task_status.started(f"ipc://{folder}/hub")
                accepted, _ = await listening.accept()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return trio.SocketStream(accepted)

    async def _end_with_link(self, scope: trio.CancelScope) -> None:
        await self._link_gone.wait()
        await trio.sleep(self._farewell_s)
        scope.cancel()

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK_BYTES):
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            scope.cancel()
