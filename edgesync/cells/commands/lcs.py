"""LCS: what two strings have in common."""

from collections.abc import Sequence

from edgesync._native.keyspace import WrongType
from edgesync._native.lcs import CELLS_MAX, common
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import SYNTAX, Call, command, integer


@command("lcs", -3, keys=(1, 2, 1))
def lcs(call: Call, args: Sequence[bytes]) -> Reply:
    try:
        one, other = [call.space.get_string(key) or b"" for key in args[:2]]
    except WrongType:
        raise ReplyError("ERR The specified keys must contain string values") from None
    words, least, rest = set(), 0, list(args[2:])
    while rest:
        word = rest.pop(0).lower()
        if word == b"minmatchlen" and rest:
            least = integer(rest.pop(0))
        elif word not in (b"idx", b"len", b"withmatchlen"):
            raise ReplyError(SYNTAX)
        words.add(word)
    if {b"idx", b"len"} <= words:
        raise ReplyError("ERR If you want both the length and indexes, please just use IDX.")
    try:
        found, ranges = common(one, other)
    except ValueError as error:
        raise ReplyError(
            f"ERR Insufficient memory, LCS of {error} takes a table of over {CELLS_MAX} cells"
        ) from error
    if b"idx" not in words:
        return len(found) if b"len" in words else found
    matches = [
        [[a, b], [c, d]] + ([b - a + 1] if b"withmatchlen" in words else [])
        for a, b, c, d in ranges
        if b - a + 1 >= least
    ]
    return {b"matches": matches, b"len": len(found)}
