"""Proxies as sites have them, for HTTP's CONNECT or SOCKS 5, with credentials or without.

They connect where they are asked to, and nowhere when told to refuse. `python -m
tests.faults.forward http USER PASSWORD` prints its port, and then where it connects to.
"""

import base64
import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

CHUNK_BYTES: Final = 64 * 1024


class Forward:
    """A proxy; see `open_forward`.

    scheme       http or socks5
    user, password   what it wants; "" for nothing
    refusal      what it answers instead of connecting: an HTTP status line, or a SOCKS reply's code
    names        other addresses for names that are asked for
    asked        (host, port) of each attempt
    lives        connections that are open
    """

    def __init__(self, scheme: str, user: str, password: str) -> None:
        self.scheme, self.user, self.password = scheme, user, password
        self.port = 0
        self.refusal = ""
        self.names: dict[str, tuple[str, int]] = {}
        self.asked: list[tuple[str, int]] = []
        self.lives = 0
        self.note: Callable[[tuple[str, int]], None] = lambda _target: None

    def url(self, credentials: str = "") -> str:
        return f"{self.scheme}://{credentials}{'@' if credentials else ''}127.0.0.1:{self.port}"

    async def serve(self, client: trio.SocketStream) -> None:
        try:
            asked = await (self._http if self.scheme == "http" else self._socks)(client)
            if asked is not None:
                await self._forward(client, *asked)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(client)

    async def _forward(
        self, client: trio.SocketStream, target: tuple[str, int], yes: bytes, away: bytes
    ) -> None:
        self.asked.append(target)
        self.note(target)
        try:
            hub = await trio.open_tcp_stream(*self.names.get(target[0], target))
        except OSError:
            await client.send_all(away)
            return
        self.lives += 1
        try:
            # The hub's first bytes come with the answer, where the proxy has them by then.
            async with hub, trio.open_nursery() as nursery:
                early = await hub.receive_some(CHUNK_BYTES)
                await client.send_all(yes + early)
                for one, other in ((client, hub), (hub, client)):
                    nursery.start_soon(self._pass_on, one, other, nursery.cancel_scope)
        finally:
            self.lives -= 1

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK_BYTES):
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            both.cancel()

    async def _http(self, client: trio.SocketStream) -> tuple[tuple[str, int], bytes, bytes] | None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := await client.receive_some(1)):
                return None
            head += more
        lines = head.decode().split("\r\n")
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        refusal = self.refusal
        if self.user and f"Proxy-Authorization: Basic {wanted}" not in lines:
            refusal = "407 Proxy Authentication Required"
        if refusal:
            await client.send_all(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode())
            return None
        host, _, port = lines[0].split()[1].rpartition(":")
        return (host.strip("[]"), int(port)), b"HTTP/1.1 200 Connection established\r\n\r\n", (
            b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
        )  # fmt: skip

    async def _socks(
        self, client: trio.SocketStream
    ) -> tuple[tuple[str, int], bytes, bytes] | None:
        take = functools.partial(_exactly, client)
        _, count = await take(2)
        methods = await take(count)
        method = 2 if self.user else 0
        if method not in methods:
            await client.send_all(b"\x05\xff")
            return None
        await client.send_all(bytes([5, method]))
        if method:
            _, length = await take(2)
            user = await take(length)
            password = await take((await take(1))[0])
            is_known = (user.decode(), password.decode()) == (self.user, self.password)
            await client.send_all(b"\x01\x00" if is_known else b"\x01\x01")
            if not is_known:
                return None
        _, _, _, kind = await take(4)
        raw = await take((await take(1))[0] if kind == 3 else {1: 4, 4: 16}[kind])
        family = trio.socket.AF_INET if kind == 1 else trio.socket.AF_INET6
        host = raw.decode() if kind == 3 else trio.socket.inet_ntop(family, raw)
        port = int.from_bytes(await take(2), "big")
        bound = b"\x00\x01" + bytes(6)
        if self.refusal:
            await client.send_all(bytes([5, int(self.refusal)]) + bound)
            return None
        return (host, port), b"\x05\x00" + bound, b"\x05\x05" + bound


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        if not (more := await stream.receive_some(count - len(got))):
            raise trio.BrokenResourceError
        got += more
    return got


@asynccontextmanager
async def open_forward(
    scheme: str, user: str = "", password: str = "", *, port: int = 0
) -> AsyncIterator[Forward]:
    """Yield a proxy on a free loopback port, or on that one."""
    forward = Forward(scheme, user, password)
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    forward.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, forward.serve, listeners)
        yield forward
        nursery.cancel_scope.cancel()


async def main(*arguments: str) -> None:
    async with open_forward(*arguments) as forward:
        print(forward.port, flush=True)
        forward.note = lambda target: print(*target, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
