"""Serving the application: anycorn's HTTP under Trio, with what it lacks to face the world.

Accepting is done here: anycorn's own loop ends with the first error of accept, and has no limit to
connections. It is pinned to < 0.21 because this uses its parts.
"""

import logging
import socket
from contextlib import ExitStack
from typing import Any, Final

import anyio.abc
import trio
from anycorn.config import Config
from anycorn.tcp_server import TCPServer
from anycorn.typing import ConnectionState
from anycorn.utils import wrap_app
from anycorn.worker_context import WorkerContext
from starlette.types import ASGIApp

from edgesync_transport import descriptors
from edgesync_transport.seldom import Seldom
from hubd.api.connections import connections_max
from hubd.api.settings import ApiSettings

log = logging.getLogger(__name__)

# The kernel drops a peer that stops reading; otherwise one such peer delays a shutdown for ever,
# since the server shields what it is sending from cancellation.
PEER_TIMEOUT_MS: Final = 5000
GRACE_S: Final = 2.0
# A part of an answer may take this long, and a second more for each of so many bytes, as bodies may
# that come in (`security.BODY_S`). Who takes less keeps a place that others wait for.
CHUNK_S: Final = 10.0
BYTES_A_SECOND: Final = 8 * 1024
# What the kernel keeps for a peer that has no room for it yet. By itself it keeps 4 MB and wants
# more only when the peer has read a third of them: longer than a part of an answer may take.
UNSENT_BYTES_MAX: Final = 32 * 1024
# Until a head is whole, and between two requests.
HEAD_S: Final = 5.0
HEAD_BYTES_MAX: Final = 16 * 1024
BACKLOG: Final = 128


async def serve_http(
    app: ASGIApp,
    settings: ApiSettings,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`; `started` gives the address, http://host:port. Raises OSError."""
    door = descriptors.Door("http", connections_max(), reserved_max=descriptors.QUESTIONS)
    server = _Server(app)
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(settings.host, settings.port))
        host, port = listening.getsockname()[:2]
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(door.serve, listening, server.handle, connections)
                name = f"[{host}]" if ":" in host else host
                task_status.started(f"http://{name}:{port}")
                await stop.wait()
                accepting.cancel_scope.cancel()
            stack.close()
            await server.context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + GRACE_S


class _Server:
    """What anycorn needs to serve connections."""

    def __init__(self, app: ASGIApp) -> None:
        self.config = _config()
        self.context = WorkerContext(None)
        framework: Any = app  # the same ASGI, in other words of typing
        self._app = wrap_app(framework, self.config.wsgi_max_body_size, "asgi")
        self._seldom = Seldom()

    async def handle(self, connection: trio.socket.SocketType) -> None:
        with socket.socket(fileno=connection.detach()) as raw:
            try:
                stream = _Paced(await anyio.abc.SocketStream.from_socket(raw))
                state = ConnectionState({})
                await TCPServer(self._app, self.config, self.context, state, stream).run()
            except Exception as error:  # One bad peer must never end the hub (I8).
                if (again := self._seldom.ask(type(error).__name__)) is not None:
                    log.warning("connection dropped: %r; %d more before", error, again)


class _Paced(anyio.abc.SocketStream):
    """A connection whose peer reads at some pace, or is taken for gone.

    Limited here, as anycorn shields what it sends from being cancelled further out.
    """

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream

    @property
    def _raw_socket(self) -> socket.socket:
        return self._stream.extra(anyio.abc.SocketAttribute.raw_socket)

    async def send(self, item: bytes) -> None:
        with trio.move_on_after(CHUNK_S + len(item) / BYTES_A_SECOND) as patience:
            await self._stream.send(item)
        if patience.cancelled_caught:
            log.info("an answer ends that is read too slowly: %s bytes", len(item))
            raise anyio.BrokenResourceError

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _config() -> Config:
    config = Config()
    config.graceful_timeout = GRACE_S
    config.shutdown_timeout = GRACE_S
    config.keep_alive_timeout = HEAD_S
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hubd.api.http")
    return config


def _listen(host: str, port: int) -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"api.port {port} on {host}: {error.strerror}") from error
    # Connections inherit these.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_TIMEOUT_MS)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
    return trio.socket.from_stdlib_socket(listening)
