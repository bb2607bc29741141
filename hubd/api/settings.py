"""Settings of the HTTP side; `hubd/settings.py` reads them from hub.toml's `[api]`."""

import ipaddress
from typing import Annotated

import msgspec
from msgspec import Meta

Sha256 = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{64}$", description="64 hex digits; `hubd token` makes one and adds it"
    ),
]


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may ask, and where.

    host, port     where to listen. Loopback unless somebody decides otherwise: without a token
                   everything here is readable by whoever can connect.
    token_sha256   SHA-256 of each token that may read, as hex
    write_token_sha256
                   … and of each that may also write: to keys, conflicts, replicas. Without any of
                   both no token is asked for, and then only a loopback address may be listened on
    allowed_hosts  names a browser may have asked for (the Host header), besides loopback's; it
                   keeps a page elsewhere from reading a hub that listens on loopback
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    token_sha256: tuple[Sha256, ...] = ()
    write_token_sha256: tuple[Sha256, ...] = ()
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.has_tokens and not is_loopback(self.host):
            raise ValueError(
                f"`host` {self.host} is reachable from outside, which needs `token_sha256` "
                "or `write_token_sha256`"
            )

    @property
    def has_tokens(self) -> bool:
        return bool(self.token_sha256 or self.write_token_sha256)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
