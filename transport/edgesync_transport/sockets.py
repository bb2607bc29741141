"""The ZeroMQ options both ends of a link share; each with the reason it is set.

libzmq older than 4.3.5 is refused: it has holes that can be reached before authentication
(CVE-2019-13132, CVE-2020-15166).
"""

from typing import Annotated, Final

import msgspec
import zmq

from edgesync_transport.pump import PumpLimits
from edgesync_transport.wire import DEFAULT_LIMITS, WireLimits

LIBZMQ_OLDEST: Final = (4, 3, 5)

# A frame above this ends the connection before it is read into memory, also before the handshake,
# where 200 MiB could be pushed otherwise. Twice the largest payload.
FRAME_BYTES_MAX: Final = 1024 * 1024

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How patient and how large one end of a link is."""

    # A peer that vanished is noticed after at most interval + timeout, 15 s. Each beat is about
    # 60 bytes a direction, which a metered modem can afford.
    heartbeat_interval_s: Seconds = 5.0
    heartbeat_timeout_s: Seconds = 10.0
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
    options: dict[int, int] = {
        zmq.MAXMSGSIZE: FRAME_BYTES_MAX,
        zmq.HANDSHAKE_IVL: _ms(settings.handshake_s),
        zmq.HEARTBEAT_IVL: _ms(settings.heartbeat_interval_s),
        zmq.HEARTBEAT_TIMEOUT: _ms(settings.heartbeat_timeout_s),
        # The peer ends the connection too, even if it does not send heartbeats itself.
        zmq.HEARTBEAT_TTL: _ms(settings.heartbeat_interval_s + settings.heartbeat_timeout_s),
        # What is not delivered is sent again on the next connection; nothing waits for a dead one.
        zmq.LINGER: 0,
        zmq.SNDHWM: settings.send_queue,
        zmq.RCVHWM: settings.receive_queue,
        zmq.IPV6: 1,
        # For the routers in between that forget idle connections; heartbeats do the noticing.
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: 60,
    }
    for option, value in options.items():
        socket.setsockopt(option, value)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
