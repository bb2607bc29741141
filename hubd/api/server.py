"""Serving the application: anycorn under Trio, with what it lacks to face the world."""

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anycorn
import trio
from anycorn.config import Config
from anycorn.tcp_server import TCPServer
from starlette.types import ASGIApp

from hubd.api.settings import ApiSettings

log = logging.getLogger(__name__)

# The kernel drops a peer that stops reading; otherwise one such peer delays a shutdown for ever,
# since the server shields what it is sending from cancellation.
PEER_TIMEOUT_MS: Final = 5000
GRACE_S: Final = 2.0


class HttpConfig(Config):
    def create_sockets(self) -> Any:
        created = super().create_sockets()
        for one in (*created.secure_sockets, *created.insecure_sockets):
            if one.family != socket.AF_UNIX:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_TIMEOUT_MS)
        return created


async def serve_http(
    app: ASGIApp,
    settings: ApiSettings,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`; `started` gives the address, http://host:port."""
    config = HttpConfig()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config.bind = [f"{host}:{settings.port}"]
    config.graceful_timeout = GRACE_S
    config.shutdown_timeout = GRACE_S
    config.h11_max_incomplete_size = 16 * 1024
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hubd.api.http")
    async with trio.open_nursery() as nursery:
        framework: Any = app  # the same ASGI, in other words of typing
        serve = partial(anycorn.serve, framework, config, shutdown_trigger=stop.wait, mode="asgi")
        binds = await nursery.start(serve)
        task_status.started(binds[0])


def _guard(run: Callable[[TCPServer], Awaitable[None]]) -> Any:
    async def guarded(self: TCPServer) -> None:
        try:
            await run(self)
        except Exception as error:  # One bad peer must never end the hub (I8).
            log.warning("connection dropped: %s", error)

    return guarded


# anycorn lets an error of one connection out of the nursery that serves all; it is pinned to
# < 0.21 because this reaches into it.
TCPServer.run = _guard(TCPServer.run)  # type: ignore[method-assign]
