"""Connecting through a proxy: HTTP's CONNECT (RFC 9110, 9.3.6) and SOCKS 5 (RFC 1928, 1929).

Once a proxy has connected it passes bytes on and sees what anybody on the way sees: CURVE. The
hub's name is resolved by the proxy, since what it sees is often not what is seen here. Credentials
go to the proxy alone, and are in no text that this module makes.
"""

import base64
import enum
import ipaddress
import socket
import urllib.parse
from collections.abc import Callable
from typing import Final

import msgspec
import trio

# Proxy by what the environment says, as many programs take it (HTTPS_PROXY, ALL_PROXY, NO_PROXY).
ENVIRONMENT: Final = "environment"
FORM: Final = (
    "http://host:port or socks5://host:port, with user:password@ before the host if need be"
)
HEAD_BYTES_MAX: Final = 16 * 1024
CHUNK_BYTES: Final = 4096
SAID_CHARACTERS_MAX: Final = 100
# What a proxy says when it is the hub that it cannot reach.
HUB_AWAY: Final = range(500, 600)
SOCKS: Final = 5
# RFC 1928, 6; whether it is the hub that is away.
SOCKS_REPLIES: Final = {
    1: ("general failure", True),
    2: ("not allowed by its rules", False),
    3: ("network unreachable", True),
    4: ("host unreachable", True),
    5: ("connection refused", True),
    6: ("time to live expired", True),
    7: ("command not supported", False),
    8: ("address type not supported", False),
}


class ProxyFault(enum.Enum):
    """Which layer failed."""

    AWAY = "the proxy cannot be reached"
    REFUSED = "the proxy refuses to connect to the hub"
    HUB_AWAY = "nothing answers at the hub's address"


class ProxyError(Exception):
    """There is no connection through the proxy; `fault` says which layer failed."""

    def __init__(self, fault: ProxyFault, detail: str) -> None:
        super().__init__(f"{fault.value} ({detail})")
        self.fault = fault
        self.detail = detail


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy; as text without its credentials.

    scheme   http or socks5
    """

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def url(self) -> str:
        """Return the URL with its credentials, for who connects by other means."""
        quote = urllib.parse.quote
        who = f"{quote(self.user, '')}:{quote(self.password, '')}@" if self.user else ""
        return str(self).replace("://", f"://{who}", 1)

    def __repr__(self) -> str:
        return f"Proxy({str(self)!r})"


def parse(text: str) -> Proxy:
    """Return the proxy that a URL names; raises ValueError, which does not repeat the URL."""
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"is no proxy: it would be {FORM}") from None
    scheme = {"socks5h": "socks5"}.get(parts.scheme, parts.scheme)
    rest = (parts.path.rstrip("/"), parts.query, parts.fragment)
    if scheme not in ("http", "socks5") or not parts.hostname or not port or any(rest):
        raise ValueError(f"is no proxy: it would be {FORM}")
    user, password = (urllib.parse.unquote(one or "") for one in (parts.username, parts.password))
    if any(len(one.encode()) > 255 for one in (user, password)) or ":" in user:
        raise ValueError("has a user or a password that a proxy cannot be told")
    return Proxy(scheme=scheme, host=parts.hostname, port=port, user=user, password=password)


def chosen(text: str, host: str) -> Proxy | None:
    """Return the proxy on the way to `host` that a setting means; none for "".

    Raises ValueError for what is neither a proxy nor "environment".
    """
    if text != ENVIRONMENT:
        return parse(text) if text else None
    from urllib.request import getproxies_environment, proxy_bypass

    found = getproxies_environment()
    named = found.get("https") or found.get("all")
    if not named or proxy_bypass(host, found):
        return None
    try:
        return parse(named if "://" in named else f"http://{named}")
    except ValueError as error:
        raise ValueError(f"takes HTTPS_PROXY or ALL_PROXY, which {error}") from None


async def connect(
    proxy: Proxy, host: str, port: int, *, timeout_s: float
) -> tuple[trio.SocketStream, bytes]:
    """Return a connection to `host` through the proxy, and what has come over it already.

    Raises ProxyError.
    """
    stream, fault = None, ProxyFault.AWAY
    try:
        with trio.fail_after(timeout_s):
            stream = await trio.open_tcp_stream(proxy.host, proxy.port)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            fault = ProxyFault.HUB_AWAY  # an answer takes as long as the hub's to the proxy
            ask = _ask_http if proxy.scheme == "http" else _ask_socks
            return stream, await ask(_Answers(stream), proxy, host, port)
    except trio.TooSlowError:
        problem = ProxyError(fault, f"{proxy}: no answer in {timeout_s:g} s")
    except (OSError, trio.BrokenResourceError, UnicodeError) as error:
        if fault is ProxyFault.HUB_AWAY:
            fault = ProxyFault.REFUSED
        problem = ProxyError(fault, f"{proxy}: {_reason(error)}")
    except ProxyError as error:
        problem = error
    except BaseException:
        if stream is not None:
            await trio.aclose_forcefully(stream)
        raise
    if stream is not None:
        await trio.aclose_forcefully(stream)
    raise problem


def _reason(error: BaseException) -> str:
    """Return what the system said; of several addresses, of the last."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return _reason(error.exceptions[-1])
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Answers:
    """What a proxy sends, up to where the hub's bytes begin, in HEAD_BYTES_MAX at most."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._got = b""
        self._room = HEAD_BYTES_MAX

    async def take(self, proxy: Proxy, end: Callable[[bytes], int]) -> bytes:
        """Return what comes up to where `end` says, which is -1 while that is not known."""
        while (at := end(self._got)) < 0:
            more = await self.stream.receive_some(CHUNK_BYTES)
            self._room -= len(more)
            if not more or self._room < 0:
                what = "goes on without an end" if more else "closed the connection"
                raise ProxyError(ProxyFault.REFUSED, f"{proxy} {what}")
            self._got += more
        taken, self._got = self._got[:at], self._got[at:]
        return taken

    async def exactly(self, proxy: Proxy, count: int) -> bytes:
        return await self.take(proxy, lambda got: count if len(got) >= count else -1)

    def rest(self) -> bytes:
        return self._got


async def _ask_http(answers: _Answers, proxy: Proxy, host: str, port: int) -> bytes:
    target = f"[{host}]:{port}" if ":" in host else f"{host.encode('idna').decode()}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user or proxy.password:
        lines.append(f"Proxy-Authorization: Basic {_basic(proxy)}")
    await answers.stream.send_all("\r\n".join([*lines, "", ""]).encode())

    def end(got: bytes) -> int:
        if not b"HTTP/1.".startswith(got[:7]):
            raise ProxyError(ProxyFault.REFUSED, f"{proxy} does not answer as an HTTP proxy")
        at = got.find(b"\r\n\r\n")
        return at + 4 if at >= 0 else -1

    while True:
        head = await answers.take(proxy, end)
        said = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2]
        code = said.partition(" ")[0]
        if not (code.isdecimal() and len(code) == 3):
            raise ProxyError(ProxyFault.REFUSED, f"{proxy} does not answer as an HTTP proxy")
        if code[0] == "2":
            return answers.rest()
        if code[0] != "1":
            shown = _without(proxy, said)[:SAID_CHARACTERS_MAX]
            fault = ProxyFault.HUB_AWAY if int(code) in HUB_AWAY else ProxyFault.REFUSED
            raise ProxyError(fault, f"{proxy} says {shown}")


def _without(proxy: Proxy, said: str) -> str:
    """Return what a proxy said as it can be shown: without credentials, should it repeat them."""
    for secret in (_basic(proxy), proxy.password, urllib.parse.quote(proxy.password, "")):
        said = said.replace(secret, "***") if secret else said
    return "".join(one for one in said if one.isprintable())


def _basic(proxy: Proxy) -> str:
    return base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()


async def _ask_socks(answers: _Answers, proxy: Proxy, host: str, port: int) -> bytes:
    stream = answers.stream
    wants = bool(proxy.user or proxy.password)
    await stream.send_all(bytes([SOCKS, 2, 0, 2] if wants else [SOCKS, 1, 0]))
    version, method = await answers.exactly(proxy, 2)
    if version != SOCKS:
        raise ProxyError(ProxyFault.REFUSED, f"{proxy} does not answer as a SOCKS 5 proxy")
    if method == 2 and wants:
        user, password = proxy.user.encode(), proxy.password.encode()
        await stream.send_all(bytes([1, len(user), *user, len(password), *password]))
        if (await answers.exactly(proxy, 2))[1]:
            raise ProxyError(ProxyFault.REFUSED, f"{proxy} does not take user and password")
    elif method:
        lacks = "takes neither user and password nor nobody" if wants else "wants user and password"
        raise ProxyError(ProxyFault.REFUSED, f"{proxy} {lacks}")
    await stream.send_all(bytes([SOCKS, 1, 0]) + _socks_address(host) + port.to_bytes(2, "big"))
    _, reply, _, kind, first = await answers.exactly(proxy, 5)
    if reply:
        said, is_hub_away = SOCKS_REPLIES.get(reply, ("an unknown answer", False))
        fault = ProxyFault.HUB_AWAY if is_hub_away else ProxyFault.REFUSED
        raise ProxyError(fault, f"{proxy} says {reply}: {said}")
    # Where it is bound: an address of 4 or 16 bytes, or a name; then a port.
    await answers.exactly(proxy, {1: 3, 4: 15}.get(kind, first) + 2)
    return answers.rest()


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return bytes([3, len(name)]) + name
    return bytes([1 if address.version == 4 else 4]) + address.packed
