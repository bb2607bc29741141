"""The position of a keyspace in the log, and the settings that count: rows stored with it (I9)."""

from typing import Final

import msgspec

# Keys of the rows: of a `Mark`, and of the `Rules`.
MARK_ROW: Final = b"p"
RULES_ROW: Final = b"g"
# Of the rules by which keys are made of the log. Raise it when an entry comes to lead to other rows
# than it did: keys that are made again by other rules are another keyspace.
PROJECTION_VERSION: Final = 2
# Instead of a generation in the mark, from when keys are found not to be those of the log until a
# start has said so: whoever opens them before that must find it, too.
LOST: Final = b"lost".ljust(16, b"\0")


class Mark(msgspec.Struct, frozen=True):
    """The position of this keyspace; which start of the hub wrote so, as which replica, whose
    operations come after number `born`.

    lacks   of entries up to here some are not in these keys, for the log had dropped them
    """

    keyspace: bytes
    generation: bytes
    position: int = 0
    collected: int = 0
    start: int = 0
    r: int = 0
    born: int = 0
    lacks: int = 0


class Rules(msgspec.Struct, frozen=True):
    """Settings that decide what commands and operations lead to, as the last start had them."""

    strategies: tuple[tuple[bytes, int], ...]
    value_max: int


# Until the first start: what edges told before it was heard by a hub whose settings nobody knows.
FIRST_RULES: Final = Rules((), 1 << 20)
