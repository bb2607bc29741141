"""RESP: requests of Redis clients out of bytes, and replies into bytes."""

from collections.abc import Sequence
from typing import Final, final

TOO_LARGE: Final[bytes]

@final
class Parser:
    """Requests of one connection.

    arguments_max   of one command
    bytes_max       of one argument
    command_max     bytes of all arguments of one command
    is_stranger     not authenticated yet: 10 arguments of 16 KiB are all it may send
    error           why no more can be read; "" while all is well
    """

    is_stranger: bool

    def __new__(
        cls,
        *,
        arguments_max: int = 1 << 20,
        bytes_max: int = 512 << 20,
        command_max: int = 1 << 30,
    ) -> Parser: ...
    @property
    def error(self) -> str: ...
    @property
    def held_bytes(self) -> int:
        """Bytes held for a command that is not complete."""

    def feed(self, chunk: bytes) -> list[list[bytes]]:
        """Return the commands that are complete now; then look at `error`."""

class ReplyError(Exception):
    """A reply that says what went wrong: `ERR`, `WRONGTYPE`, … and why."""

class NullArray:
    """No array, which RESP2 tells from no string."""

class Pairs(list[tuple[object, object]]):
    """Pairs, as of member and score: RESP2 has them flat."""

class Push:
    """What comes without having been asked for, as a published message does."""

    items: list[object]

    def __init__(self, items: list[object]) -> None: ...

def number_text(value: float) -> bytes:
    """Return a double as Redis writes it: 17 digits at most, integers without a point."""

def encode(replies: Sequence[object], proto: int) -> bytes:
    """Return replies in a row, in protocol version 2 or 3.

    bytes is a bulk string, str a simple one, None nothing; int, float, bool, list, dict and set are
    themselves, a ReplyError an error.
    """
