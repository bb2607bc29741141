"""Where the hub may have the edge connect to: `[tunnel] allow`."""

import ipaddress
import re
from typing import Final

import msgspec

FORM: Final = '"127.0.0.1:22", "192.168.1.0/24:502", "[fd00::7]:80", "plc.local:*"'
_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})")
# Of a link-local address, fe80::7%eth0: an interface of Linux. Without a bound it is any text.
_SCOPE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Target(msgspec.Struct, frozen=True):
    """One entry: a network or a name, and a port; 0 is any."""

    network: Network | None
    name: str
    port: int

    def has(self, host: str, port: int) -> bool:
        """Return whether it lets somebody connect to `host`, an address or a name as it stands."""
        if self.port not in (0, port):
            return False
        if self.network is None:
            return host.lower() == self.name
        address = address_of(host)
        return address is not None and address in self.network


def read_target(text: str) -> Target:
    """Return an entry of `allow`; raises ValueError, which says how one is written."""
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    wrong = ValueError(f"{text!r} is no address or name with a port; write {FORM}")
    if not (port == "*" or (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536)):
        raise wrong
    number = 0 if port == "*" else int(port)
    try:
        return Target(ipaddress.ip_network(host), "", number)
    except ValueError as error:
        # An address with bits beyond its mask is a mistake, not a name.
        if "/" in host or ":" in host or host.replace(".", "").isdecimal():
            raise ValueError(f"{text!r}: {error}; write {FORM}") from error
    if not _NAME.fullmatch(host):
        raise wrong
    return Target(None, host.lower(), number)


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return `host` as an address, None for what is none; ::ffff:10.0.0.1 is 10.0.0.1."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return found
    if found.scope_id is not None:
        return found if found.is_link_local and _SCOPE.fullmatch(found.scope_id) else None
    return found.ipv4_mapped or found
