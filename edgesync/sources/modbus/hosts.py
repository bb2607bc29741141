"""Host names as settings may write them, and which of them are one.   [sans-IO]"""

import ipaddress
import re

from edgesync.errors import ConfigError


def checked_host(host: str, device: str) -> str:
    """Return the name under which `host` is connected to. Raises ConfigError for what is none."""

    def wrong(problem: str, remedy: str) -> ConfigError:
        return ConfigError(
            file=f"device {device!r}", field="host", problem=f"{host!r} {problem}", remedy=remedy
        )

    if re.match(r"(/dev/|com\d+$)", host, re.IGNORECASE):
        remedy = "serial lines are not spoken: use a gateway that speaks Modbus TCP"
        raise wrong("is a serial port", remedy)
    if match := re.match(r"([a-z+]+)://([^/:]*)", host, re.IGNORECASE):
        raise wrong("has a scheme", f'write host = "{match[2]}"')
    if re.search(r"\s", host):
        raise wrong("has a blank", f'write host = "{"".join(host.split())}"')
    if match := re.fullmatch(r"\[(.*)\](?::(\d+))?", host):
        port = f" and port = {match[2]}" if match[2] else ""
        raise wrong("has brackets", f'write host = "{match[1]}"{port}')
    if match := re.fullmatch(r"([^:]+):(\d+)", host):
        raise wrong("has a port", f'write host = "{match[1]}" and port = {match[2]}')
    if "/" in host:
        raise wrong("is no host", 'write a name or an address, such as "10.0.0.5"')
    return host


def canonical_host(host: str) -> str:
    """Return one name for hosts that are the same: they share a connection."""
    name = host.lower().rstrip(".")
    if name == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name
