"""[sync.lanes.*] of edge.toml: how much may wait for the hub, and what gives way then."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgesync.units import Bytes

Overflow = Literal["refuse", "drop_oldest", "downsample"]


class Capacity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one lane; 0 is "as much as store.limit holds".

    overflow        refuse: whoever writes gets an error, and nothing is lost that was accepted
    capacity        records that may wait for the hub
    capacity_bytes  what the lane may take in the journal; what the hub has gives way first
    """

    overflow: Overflow = "refuse"
    capacity: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    capacity_bytes: Bytes = Bytes(0)


class CriticalSection(Capacity, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Here the losses of the other lanes are told, so nothing is ever dropped."""

    overflow: Literal["refuse"] = "refuse"


class NormalSection(Capacity, frozen=True, kw_only=True, forbid_unknown_fields=True):
    overflow: Literal["refuse", "drop_oldest"] = "refuse"


class BulkSection(Capacity, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lane of telemetry, which can also be thinned out.

    keep_every  downsample: of this many readings of a series, the oldest first, one stays
    """

    keep_every: Annotated[int, Meta(ge=2, le=1000)] = 4


class LanesSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # What was accepted is kept: only whoever runs the site may say that something else counts more.
    critical: CriticalSection = CriticalSection()
    normal: NormalSection = NormalSection()
    bulk: BulkSection = BulkSection()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Of one lane: `records` that may wait, bytes it may take; 0 for as many as the store holds."""

    overflow: Overflow = "refuse"
    records: int = 0
    nbytes: int = 0
    keep_every: int = 4
