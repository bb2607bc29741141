"""Connecting to what the hub may reach from here."""

import socket
from typing import Any, Final

import trio

from edgesync.tunnel.allow import address_of

# Names that are looked up at once. Who gives up does not end the thread that waits for DNS, and
# all others of the edge (disk, rules, link) share trio's forty.
LOOKUPS_MAX: Final = 4
ADDRESSES_MAX: Final = 4  # of a name that are tried

_lookups = trio.lowlevel.RunVar[trio.CapacityLimiter]("tunnel lookups")


async def dial(host: str, port: int, within_s: float) -> trio.SocketStream:
    """Return a connection to an address or a name; raises OSError, ValueError for a bad name.

    A name has `within_s` for all its addresses: each may take its part of it.
    """
    if address_of(host) is not None:
        return await trio.open_tcp_stream(host, port)
    found = (await _look_up(host, port))[:ADDRESSES_MAX]
    failed: OSError = TimeoutError("none of its addresses answers")
    for family, kind, protocol, _, address in found:
        one = trio.socket.socket(family, kind, protocol)
        try:
            with trio.move_on_after(within_s / len(found)):
                await one.connect(address)
                return trio.SocketStream(one)
        except OSError as error:
            failed = error
        except BaseException:
            one.close()
            raise
        one.close()
    raise failed


async def _look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    try:
        lookups = _lookups.get()
    except LookupError:
        lookups = trio.CapacityLimiter(LOOKUPS_MAX)
        _lookups.set(lookups)
    return await trio.to_thread.run_sync(
        lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        limiter=lookups,
        abandon_on_cancel=True,
    )
