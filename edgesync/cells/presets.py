"""How much a store of keys may hold, for classes of devices."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

PresetName = Literal["", "minimal", "iot", "mobile", "standard", "full"]


class Limits(msgspec.Struct, frozen=True):
    """What clients may fill it to.

    keys, data   how many keys, and bytes of keys and values as they are kept
    value        bytes of one value
    may_pack     whether values are compressed; one kind of LZ4, the fast one
    """

    name: str
    keys: int
    data: int
    value: int
    may_pack: bool

    def exceeded(self, keys: tuple[int, int], data: tuple[int, int]) -> str:
        """Return what a change from one to the other goes beyond, and what helps; or nothing."""
        remedy = "delete keys or choose a larger [cells] preset"
        if keys[1] > keys[0] and keys[1] > self.keys:
            return f"preset {self.name} holds at most {self.keys} keys; {remedy}"
        if data[1] > data[0] and data[1] > self.data:
            return f"preset {self.name} holds at most {self.data} bytes of data; {remedy}"
        return ""


_KIB: Final = 1 << 10
_MIB: Final = 1 << 20

PRESETS: Final[Mapping[str, Limits]] = {
    one.name: one
    for one in (
        Limits("minimal", 10_000, 4 * _MIB, 64 * _KIB, may_pack=False),
        Limits("iot", 1_000, 2 * _MIB, 4 * _KIB, may_pack=True),
        Limits("mobile", 50_000, 32 * _MIB, _MIB, may_pack=True),
        Limits("standard", 100_000, 16 * _MIB, _MIB, may_pack=False),
        Limits("full", 1_000_000, 64 * _MIB, 4 * _MIB, may_pack=True),
    )
}
