"""[tunnel] of edge.toml: what the hub may connect to from here."""

from typing import Annotated

import msgspec
from msgspec import Meta

from edgesync.tunnel.allow import Target, read_target
from edgesync.units import Period
from edgesync_transport.messages import CONNECTIONS_MAX


class TunnelSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Off while nothing is allowed.

    allow            targets: address, network or name, and port
    tunnels_max      at a time
    connections_max  in one tunnel at a time; others wait at the hub
    longest          what the hub may ask for; it is given less when it asks for more
    idle             a connection on which nothing moves for so long is closed, and a tunnel without
                     a connection
    """

    allow: Annotated[tuple[str, ...], Meta(max_length=100)] = ()
    tunnels_max: Annotated[int, Meta(ge=1, le=16)] = 2
    # A browser opens six to a host.
    connections_max: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = 8
    longest: Period = Period(3600.0)
    idle: Period = Period(900.0)

    def __post_init__(self) -> None:
        self.targets()

    def targets(self) -> tuple[Target, ...]:
        """Return what `allow` says; raises ValueError for an entry that says nothing."""
        return tuple(map(read_target, self.allow))
