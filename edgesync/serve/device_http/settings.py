"""[device_http] of edge.toml: the door for devices that speak HTTP."""

from typing import Annotated

import msgspec
from msgspec import Meta

from edgesync.units import Bytes


class DeviceHttpSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ports that are 0 are closed.

    devices          file with the devices' access tokens; relative to the file's folder
    firmware         folder of packages for devices; likewise
    connections_max  at a time; others wait until one of them has gone
    guesses_max      different wrong tokens of one address within a minute; then only those are
                     looked at that were let in from there before
    body_limit       of one request
    type_cast        text that is a number is stored as one
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    tls_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    certificate: str = ""
    key: str = ""
    # The file of [mqtt], too: a device is the same one at either door.
    devices: str = "mqtt-devices.toml"
    firmware: str = "firmware"
    connections_max: Annotated[int, Meta(ge=1, le=10_000)] = 256
    guesses_max: Annotated[int, Meta(ge=1, le=100_000)] = 30
    body_limit: Bytes = Bytes(65_536)
    type_cast: bool = True

    @property
    def is_open(self) -> bool:
        return bool(self.port or self.tls_port)
