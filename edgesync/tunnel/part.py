"""Tunnels of an edge: refused or granted, on record, and ended with the session at the latest.

The hub asks; what may be reached from here, for how long and how often, `[tunnel]` of the settings
says. That a tunnel was opened is on disk before the hub may use it, and its end follows: both are
ordinary records, which the hub gets like all others, whenever it can.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync.errors import EdgesyncError
from edgesync.parts.part import Context, Part
from edgesync.status import TunnelsStatus, TunnelStatus
from edgesync.tunnel.dial import dial
from edgesync_transport import descriptors
from edgesync_transport.messages import (
    Message,
    TunnelClose,
    TunnelCode,
    TunnelData,
    TunnelOpen,
    TunnelOpened,
)
from edgesync_transport.seldom import Seldom
from edgesync_transport.tunnel.end import FAREWELL_S, TunnelEnd
from edgesync_transport.tunnel.stream import StreamFault
from edgesync_transport.tunnel.tunnel import End, Tunnel

if TYPE_CHECKING:
    from edgesync.parts.link import LinkPart

log = logging.getLogger(__name__)

CONNECT_S: Final = 10.0
# Records of refusals, and openings, which are on record each: so many at once, then one in so long.
REFUSALS_BURST, REFUSAL_EVERY_S = 20, 60.0
OPENINGS_BURST, OPENING_EVERY_S = 60, 10.0


class OpenTunnel(msgspec.Struct, frozen=True):
    """A tunnel that is granted once that is on record, with what it is for."""

    asked: TunnelOpen
    end: TunnelEnd
    opened_ns: int
    granted: trio.Event

    @property
    def name(self) -> str:
        return f"{self.asked.tunnel:08x}"

    @property
    def target(self) -> str:
        return target_of(self.asked)

    async def connect(self) -> trio.SocketStream:
        """Connect to the target; raises StreamFault."""
        if descriptors.are_short():
            descriptors.note_shortage("tunnel")
            raise StreamFault(TunnelCode.FULL, "the edge is short of file descriptors")
        try:
            with trio.fail_after(CONNECT_S):
                return await dial(self.asked.host, self.asked.port, CONNECT_S)
        except trio.TooSlowError:
            reason = f"{self.target} did not answer in {CONNECT_S:g} s"
        except (OSError, ValueError) as error:  # ValueError: a name that DNS has no form for
            reason = f"{self.target}: {error}"
        raise StreamFault(TunnelCode.UNREACHABLE, reason)


class TunnelPart(Part):
    """See the module. The link tells it what the hub wants (`edgesync.sync.driver.Tunnels`)."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._targets = context.settings.tunnel.targets()
        self._open: dict[int, OpenTunnel] = {}
        self.granted = self.refused = 0
        clock = trio.current_time
        self._seldom = Seldom(REFUSAL_EVERY_S, clock, burst=REFUSALS_BURST)
        self._openings = Seldom(OPENING_EVERY_S, clock, burst=OPENINGS_BURST)

    def open(self) -> None:
        link: LinkPart = self.context.parts.get("link")
        link.tunnels = self

    def status(self) -> Mapping[str, Any]:
        found = tuple(map(self._status_of, self._open.values()))
        return {"tunnels": TunnelsStatus(open=found, granted=self.granted, refused=self.refused)}

    def _status_of(self, one: OpenTunnel) -> TunnelStatus:
        tunnel = one.end.tunnel
        return TunnelStatus(
            tunnel=one.name, target=one.target, by=one.asked.by, opened_ns=one.opened_ns,
            left_s=max(0.0, tunnel.expires_at - trio.current_time()),
            connections=len(tunnel.streams), sent_bytes=tunnel.sent, received_bytes=tunnel.received,
        )  # fmt: skip

    def close_tunnel(self, name: str) -> int:
        """Close a tunnel, all with "all"; returns how many. Raises EdgesyncError for none."""
        found = [one for one in self._open.values() if one.end.ended is None]
        closing = [one for one in found if name in ("all", one.name)]
        if not closing and name != "all":
            raise EdgesyncError(f"no tunnel {name!r} is open; `edgesync tunnel list` shows them")
        for one in closing:
            one.end.end(End(TunnelCode.CLOSED, "closed at the edge"))
        return len(closing)

    # -- from the hub (edgesync.sync.driver.Tunnels) ---------------------------------------------

    def hear(self, message: TunnelOpen | TunnelData | TunnelClose) -> None:
        if isinstance(message, TunnelOpen):
            self._asked(message)
            return
        one = self._open.get(message.tunnel)
        if one is None:
            if isinstance(message, TunnelData):  # what said that it is over was lost
                self._refuse(message, End(TunnelCode.CLOSED, "the tunnel is over"))
            return
        if isinstance(message, TunnelData) and not one.granted.is_set():
            # It is not on record yet: whoever does not wait for that is given nothing.
            one.end.end(End(TunnelCode.NOT_ALLOWED, "the edge has not granted it yet"))
            return
        stream = one.end.hear(message, accepts=True)
        if stream is not None:
            self.context.parts.start_soon(one.end.serve, stream, one.connect)

    def session_over(self) -> None:
        for one in self._open.values():
            one.end.end(End(TunnelCode.LOST, "the session with the hub is over"), is_told=True)

    def _asked(self, asked: TunnelOpen) -> None:
        if asked.tunnel in self._open:
            return
        if problem := self._problem(asked):
            self.refused += 1
            self._refuse(asked, problem)
            if (again := self._seldom.ask("")) is not None:
                self.context.parts.start_soon(self._note_refusal, asked, problem, again)
            return
        section = self.context.settings.tunnel
        tunnel = Tunnel(
            asked.epoch, asked.tunnel, now=trio.current_time(), idle_s=float(section.idle),
            for_s=min(asked.for_s, float(section.longest)), connections=section.connections_max,
        )  # fmt: skip
        one = OpenTunnel(asked, TunnelEnd(tunnel, self._send), self.context.wall_ns(), trio.Event())
        self._open[asked.tunnel] = one
        self.granted += 1
        self.context.parts.start_soon(self._keep, one)

    def _problem(self, asked: TunnelOpen) -> End | None:
        section = self.context.settings.tunnel
        if not any(target.has(asked.host, asked.port) for target in self._targets):
            return End(
                TunnelCode.NOT_ALLOWED,
                f"{target_of(asked)} is not in `allow` under [tunnel] in its edge.toml",
            )
        if len(self._open) >= section.tunnels_max:
            return End(TunnelCode.FULL, f"it has {len(self._open)} tunnels, as many as may be")
        if descriptors.are_short():
            descriptors.note_shortage("tunnel")
            return End(TunnelCode.FULL, "it is short of file descriptors")
        if self._openings.ask("") is None:
            return End(
                TunnelCode.FULL,
                f"it was asked for more than {OPENINGS_BURST} tunnels at once and then one in "
                f"{OPENING_EVERY_S:g} s; try again later",
            )
        return None

    def _refuse(self, message: TunnelOpen | TunnelData, end: End) -> None:
        self._send(TunnelClose(
            epoch=message.epoch, tunnel=message.tunnel, stream=0, code=end.code, reason=end.reason,
        ))  # fmt: skip

    def _send(self, message: Message) -> None:
        link: LinkPart = self.context.parts.get("link")
        if link.driver is not None:
            link.driver.tell(message)

    # -- on record -------------------------------------------------------------------------------

    async def _keep(self, one: OpenTunnel) -> None:
        """Store that the tunnel is open, let the hub use it until it is over, and store that."""
        asked, tunnel = one.asked, one.end.tunnel
        report = self.context.recorder.report
        facts: dict[str, str | int | float] = {
            "tunnel": one.name, "target": one.target, "by": asked.by,
        }  # fmt: skip
        end = End(TunnelCode.CLOSED, "the edge stops")
        try:
            if not await report("tunnel_opened", {**facts, "for_s": tunnel.for_s}):
                end = End(TunnelCode.FULL, "the edge cannot store that it is open")
                return
            one.granted.set()
            log.info("tunnel opened: %s", facts)
            self._send(TunnelOpened(
                epoch=asked.epoch, tunnel=asked.tunnel, for_s=tunnel.for_s,
                connections=tunnel.connections,
            ))  # fmt: skip
            end = await one.end.run()
        except Exception as error:  # What one tunnel meets must not end the node (I8).
            log.exception("tunnel %s failed", one.name)
            end = End(TunnelCode.RESET, f"the edge failed: {error!r}")
        finally:
            one.end.end(end)
            facts |= {
                "code": end.code.name.lower(), "reason": end.reason, "connections": tunnel.opened,
                "sent_bytes": tunnel.sent, "received_bytes": tunnel.received,
            }  # fmt: skip
            log.info("tunnel closed: %s", facts)
            with trio.move_on_after(FAREWELL_S, shield=True):
                await report("tunnel_closed", facts)
            del self._open[asked.tunnel]  # not before: what waits to be stored is bounded, too

    async def _note_refusal(self, asked: TunnelOpen, problem: End, again: int) -> None:
        facts: dict[str, str | int | float] = {
            "tunnel": f"{asked.tunnel:08x}", "target": target_of(asked), "by": asked.by,
            "code": problem.code.name.lower(), "reason": problem.reason, "left_out": again,
        }  # fmt: skip
        log.warning("tunnel refused: %s", facts)
        await self.context.recorder.report("tunnel_refused", facts)


def target_of(asked: TunnelOpen) -> str:
    host = f"[{asked.host}]" if ":" in asked.host else asked.host
    return f"{host}:{asked.port}"
