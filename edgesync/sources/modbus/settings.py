"""The settings of Modbus devices and the device profile's file format, as written by users.

Everything here is read once, with unknown keys refused; `layout.py` checks what spans fields and
turns both into one resolved `Layout`. docs/modbus.md explains the format to users.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgesync.units import Period, Seconds

Order = Literal["big", "little"]
Table = Literal["holding", "input", "coil", "discrete"]
PointType = Literal[
    "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "bool", "string", "bcd", "enum", "bits",
]  # fmt: skip
Quirk = Literal["single_reads", "close_after_poll", "any_unit_id", "any_transaction_id"]

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^/\s\x00-\x1f]+$")]
Words = Annotated[int, Meta(ge=1, le=125)]


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device can take. Left out: the profile's value, then that of `layout.Limits`."""

    max_words: Words | None = None
    max_bits: Annotated[int, Meta(ge=1, le=2000)] | None = None
    max_gap: Annotated[int, Meta(ge=0, le=124)] | None = None
    timeout: Period | None = None
    retries: Annotated[int, Meta(ge=0, le=10)] | None = None
    busy_retries: Annotated[int, Meta(ge=0, le=20)] | None = None
    busy_wait: Seconds | None = None
    min_gap: Seconds | None = None
    connect_delay: Seconds | None = None
    unit_switch: Seconds | None = None
    overlap: bool | None = None


class GroupSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the points of a group are read; `points` moves points into it by name."""

    every: Period | None = None
    points: tuple[str, ...] = ()


class PointSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value of a device: where it is, how it is written there, what it means."""

    name: Name
    address: Annotated[int, Meta(ge=0, le=65536)]
    type: PointType = "uint16"
    table: Table = "holding"
    length: Words | None = None  # registers, of string, bcd, enum and bits
    bit: Annotated[int, Meta(ge=0, le=15)] | None = (
        None  # a bool inside a register; 0 is the lowest
    )
    word_order: Order | None = None
    dword_order: Order | None = None  # halves of a 64-bit value; left out: as word_order
    byte_order: Order | None = None
    scale: float | None = None
    offset: float | None = None
    sf: str | None = None  # the point that holds the exponent of ten
    unit: str = ""
    group: str | None = None
    invalid: tuple[int | float | str, ...] | Literal["sunspec"] = ()
    min: float | None = None
    max: float | None = None
    never_falls: bool = False  # a counter: a smaller value than before is none
    max_step: Annotated[float, Meta(gt=0)] | None = None  # largest change from poll to poll
    enum: dict[str, str] = {}
    bits: dict[str, str] = {}
    atomic_with: tuple[str, ...] = ()
    deadband: float | str | None = None
    max_age: Period | None = None
    label: str = ""


class ProfileSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile's file: one kind of device."""

    profile: Name
    version: Annotated[
        str, Meta(pattern=r"^\d+\.\d+\.\d+$", description='three numbers, such as "1.0.0"')
    ] = "1.0.0"
    vendor: str = ""
    models: tuple[str, ...] = ()
    description: str = ""
    unit_id: Annotated[int, Meta(ge=0, le=255)] = 1
    address_base: Literal[0, 1] = 0
    word_order: Order = "big"
    byte_order: Order = "big"
    limits: LimitSettings = LimitSettings()
    quirks: tuple[Quirk, ...] = ()
    poll_groups: dict[str, GroupSettings] = {}
    points: Annotated[tuple[PointSettings, ...], Meta(min_length=1, max_length=10_000)]


class ModbusDeviceSettings(LimitSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device of a site. Devices with the same host and port share one connection.

    `profile` is the name of a bundled profile or a path to a file of your own; inline `points`
    are added to it, or replace its point of the same name. The fields of `LimitSettings` may be
    set here as well and win over the profile's.
    """

    name: Name
    host: Annotated[str, Meta(min_length=1, max_length=255)]
    port: Annotated[int, Meta(ge=1, le=65535)] = 502
    unit_id: Annotated[int, Meta(ge=0, le=255)] | None = None
    profile: str = ""
    points: tuple[PointSettings, ...] = ()
    poll_groups: dict[str, GroupSettings] = {}
    deadband: float | str | None = None  # of the points that name none themselves
    max_age: Period | None = None
    word_order: Order | None = None
    byte_order: Order | None = None
    address_base: Literal[0, 1] | None = None
    quirks: tuple[Quirk, ...] = ()  # besides the profile's
    enabled: bool = True
