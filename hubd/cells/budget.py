"""What commands that are carried out together may cost: replies, writes, elements looked at.

An entry of the log that takes more memory or time than there is would end each start of the hub.
"""

from collections.abc import Sequence
from typing import Final

from edgesync._native.commands import keys_of
from edgesync._native.hubkeys import HubKeys
from edgesync._native.keyspace import STRING
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands import TABLE
from edgesync.cells.commands.table import weight_of

# Bytes of the replies to commands that are carried out together.
REPLIES_BYTES_MAX: Final = 16 << 20
# Of what they write, 512 for each operation besides: about a second of work.
WRITTEN_BYTES_MAX: Final = 64 << 20
# Of elements that they look at, of sets and sorted sets ten times, for one takes as long: about two
# seconds of work. The first that goes beyond it is the last: so it depends on what there is.
LOOKED_AT_MAX: Final = 2_000_000
ELEMENTS: Final = {
    **dict.fromkeys(
        b"sdiff sdiffstore sinter sintercard sinterstore sunion sunionstore zdiff zdiffstore "
        b"zinter zintercard zinterstore zunion zunionstore".split(), 10,
    ),
    **dict.fromkeys(
        b"hgetall hkeys hrandfield hvals lindex linsert lpos lrange lrem lset ltrim smembers sort "
        b"sort_ro srandmember zcount zlexcount zrange zrangebylex zrangebyscore zrangestore zrank "
        b"zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex "
        b"zrevrangebyscore zrevrank".split(), 1,
    ),
}  # fmt: skip


class TooLarge(ReplyError):
    """Instead of a reply: commands before it have taken what there is for all of them."""


TOO_LARGE: Final = TooLarge(f"TOOLARGE replies of over {REPLIES_BYTES_MAX} bytes")
TOO_MANY: Final = TooLarge(f"TOOLARGE commands that look at over {LOOKED_AT_MAX} elements")
TOO_MUCH: Final = TooLarge(f"TOOLARGE commands that write over {WRITTEN_BYTES_MAX} bytes")


class Budget:
    """Taken up by one command after the other.

    reply_bytes   left for replies
    """

    def __init__(self, space: HubKeys) -> None:
        self.reply_bytes = REPLIES_BYTES_MAX
        self._space = space
        self._written_max = space.written + WRITTEN_BYTES_MAX
        self._elements_left = LOOKED_AT_MAX

    def refusal(self, request: Sequence[bytes]) -> TooLarge | None:
        """Return why a command is not carried out; else take up the elements it looks at.

        The first command that goes beyond a limit is the last of its kind.
        """
        if self._space.written > self._written_max and _writes(request):
            return TOO_MUCH
        if looked_at := self._elements(request):
            if self._elements_left <= 0:
                return TOO_MANY
            self._elements_left -= looked_at
        return TOO_LARGE if self.reply_bytes <= 0 else None

    def taken(self, request: Sequence[bytes], reply: Reply) -> Reply:
        """Take up the bytes of a reply; returns it, or TOO_LARGE."""
        self.reply_bytes -= weight_of(reply)
        # What was taken away has to be given, however large.
        return reply if self.reply_bytes >= 0 or _writes(request) else TOO_LARGE

    def _elements(self, request: Sequence[bytes]) -> int:
        """Return how many elements a command may look at, weighed as ELEMENTS says."""
        name = request[0].lower()
        if name not in ELEMENTS:
            return 0
        found = 0
        for key in keys_of(TABLE[name], list(request)):
            kind = self._space.type_of(key)
            if kind and kind != STRING:
                found += self._space.count(key, kind)
        return found * ELEMENTS[name]


def _writes(request: Sequence[bytes]) -> bool:
    command = TABLE.get(request[0].lower())
    return command is not None and command.writes
