"""[mqtt] of edge.toml: the door for MQTT devices."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgesync.units import Bytes, Seconds

Format = Literal["json", "csv", "number", "text"]
TimeUnit = Literal["s", "ms", "us", "ns", "iso"]


class TopicSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The reading of messages on topics that match a pattern.

    topic    levels are text, `+`, `{name}`; `#` may stand at the end
    entity   with `{name}` of the pattern, or `{client}`, the device that sent it
    key      likewise; `{key}` is the member of the JSON or the column of the CSV
    keys     members that count; all, if empty
    time     the member or column that holds the time; without one it is when the message came
    """

    topic: Annotated[str, Meta(min_length=1, max_length=1000)]
    entity: str = ""
    key: str = ""
    format: Format = "json"
    keys: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    time: str = ""
    time_unit: TimeUnit = "ms"
    unit: str = ""


class MqttSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ports that are 0 are closed.

    client_ca       file of those who have signed devices' certificates, in PEM
    devices         file with the devices' credentials; relative to the file's folder
    firmware        folder of packages for devices, TITLE/VERSION; relative to the file's folder
    anonymous       what clients without credentials are called; empty: nobody comes in without
    guesses_max     different wrong credentials of one address within a minute; then only those are
                    looked at that were let in from there before
    type_cast       text that is a number is stored as one
    bad_payload     of a message of version 3.1.1 that cannot be stored, keep: the refusal is stored
                    as an event and the message acknowledged; close: the connection ends
    session_expiry  longest time for which a session is kept while its client is away
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    tls_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    devices: str = "mqtt-devices.toml"
    firmware: str = "firmware"
    anonymous: Annotated[str, Meta(max_length=255)] = ""
    clients_max: Annotated[int, Meta(ge=1, le=60_000)] = 10_000
    guesses_max: Annotated[int, Meta(ge=1, le=100_000)] = 30
    # What ThingsBoard takes.
    packet_limit: Bytes = Bytes(65_536)
    inflight_max: Annotated[int, Meta(ge=1, le=65_535)] = 100
    session_expiry: Seconds = Seconds(86_400.0)
    type_cast: bool = True
    bad_payload: Literal["keep", "close"] = "keep"
    topics: tuple[TopicSettings, ...] = ()

    @property
    def is_open(self) -> bool:
        return bool(self.port or self.tls_port)
