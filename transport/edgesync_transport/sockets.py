"""The ZeroMQ options both ends of a link share; each with the reason it is set.

libzmq older than 4.3.5 is refused: it has holes that can be reached before authentication
(CVE-2019-13132, CVE-2020-15166).

Its heartbeats (ZMTP PING) are not used. While a full queue holds a connection back, one that falls
due or is answered after the other end has gone makes libzmq end the process ("Assertion failed:
!_io_error"; zeromq/libzmq#3937, #4767). The protocol has a heartbeat of its own; that a hub does
not keep the connections of peers that are gone is the kernel's part.
"""

import math
from typing import Annotated, Final

import msgspec
import zmq

from edgesync_transport.pump import PumpLimits
from edgesync_transport.wire import DEFAULT_LIMITS, WireLimits

LIBZMQ_OLDEST: Final = (4, 3, 5)

# A frame above this ends the connection before it is read into memory, also before the handshake,
# where 200 MiB could be pushed otherwise. Twice the largest payload.
FRAME_BYTES_MAX: Final = 1024 * 1024

# What a vanished peer does not answer.
ASKED_MAX: Final = 3

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How patient and how large one end of a link is."""

    # The kernel ends a connection when its other end answers nothing for so long. It asks three
    # times in that time, in packets without content, and only while nothing else is on the way.
    vanished_s: Seconds = 15.0
    # A handshake is three round trips; a connection that says nothing holds 4.5 KB and a
    # descriptor for as long as this.
    handshake_s: Seconds = 3.0
    connect_s: Seconds = 10.0
    # Messages ZeroMQ queues for each peer, besides the pump's own queues. Receiving is bounded by
    # what a hostile peer could fill (times FRAME_BYTES_MAX), and a full queue only holds TCP
    # back; sending by what a hub may answer to one edge before that edge counts as stuck.
    receive_queue: Annotated[int, msgspec.Meta(ge=1)] = 64
    send_queue: Annotated[int, msgspec.Meta(ge=1)] = 256
    # How long a Bye may take to leave after a link was closed on purpose.
    farewell_s: Annotated[float, msgspec.Meta(ge=0)] = 0.25
    wire: WireLimits = DEFAULT_LIMITS
    pump: PumpLimits = PumpLimits()


DEFAULT_SETTINGS: Final = LinkSettings()

# One group commit answers every edge at once: room for 65,536 acknowledgements of about 100 bytes.
DEFAULT_HUB_SETTINGS: Final = LinkSettings(
    pump=PumpLimits(outbox_messages=65_536, outbox_bytes=32 * 1024 * 1024)
)


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return a context of one's own: ZAP is one handler a context, so two hubs cannot share."""
    if zmq.zmq_version_info() < LIBZMQ_OLDEST or not zmq.has("curve"):
        found = zmq.zmq_version()
        raise RuntimeError(f"libzmq {found}: edgesync needs 4.3.5 with CURVE; upgrade pyzmq")
    return zmq.Context()


def prepare(socket: zmq.Socket[bytes], settings: LinkSettings) -> None:
    """Set what both ends share, before bind or connect."""
    ask_s = math.ceil(settings.vanished_s / ASKED_MAX)
    options: dict[int, int] = {
        zmq.MAXMSGSIZE: FRAME_BYTES_MAX,
        zmq.HANDSHAKE_IVL: _ms(settings.handshake_s),
        # What is not delivered is sent again on the next connection; nothing waits for a dead one.
        zmq.LINGER: 0,
        zmq.SNDHWM: settings.send_queue,
        zmq.RCVHWM: settings.receive_queue,
        zmq.IPV6: 1,
        # Idle connections, and those with something on the way: tcp(7), TCP_USER_TIMEOUT.
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: ask_s,
        zmq.TCP_KEEPALIVE_INTVL: ask_s,
        zmq.TCP_KEEPALIVE_CNT: ASKED_MAX,
        zmq.TCP_MAXRT: _ms(settings.vanished_s),
    }
    for option, value in options.items():
        socket.setsockopt(option, value)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
