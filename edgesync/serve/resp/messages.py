"""SUBSCRIBE, PUBLISH and their like."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import glob

if TYPE_CHECKING:
    from edgesync.serve.resp.session import Session

# In protocol version 2 a subscriber may say nothing else.
SUBSCRIBER: Final = (b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe", b"ping", b"quit",
                     b"reset")  # fmt: skip


class Several:
    """Any number of replies to one request."""

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = replies


def subscribe(session: "Session", args: Sequence[bytes]) -> Reply:
    session.house.notifications.check(args)
    channels = session.house.channels
    channels.check_room(session, args)
    return Several([channels.join(session, one) for one in args])


def psubscribe(session: "Session", args: Sequence[bytes]) -> Reply:
    session.house.notifications.check(args)
    channels = session.house.channels
    channels.check_room(session, args, is_pattern=True)
    return Several([channels.join(session, one, is_pattern=True) for one in args])


def unsubscribe(session: "Session", args: Sequence[bytes]) -> Reply:
    names: list[bytes | None] = [*args] or [*sorted(session.subscribed)] or [None]
    return Several([session.house.channels.part(session, one) for one in names])


def punsubscribe(session: "Session", args: Sequence[bytes]) -> Reply:
    names: list[bytes | None] = [*args] or [*sorted(session.patterns)] or [None]
    channels = session.house.channels
    return Several([channels.part(session, one, is_pattern=True) for one in names])


def publish(session: "Session", args: Sequence[bytes]) -> Reply:
    return session.house.channels.publish(args[0], args[1])


def pubsub(session: "Session", args: Sequence[bytes]) -> Reply:
    channels, word = session.house.channels, args[0].lower()
    if word == b"channels" and len(args) <= 2:
        matches = glob(args[1]).matches if len(args) == 2 else None
        return [one for one in channels.names() if matches is None or matches(one)]
    if word == b"numsub":
        flat: list[bytes | int] = []
        for name in args[1:]:
            flat += [name, channels.count(name)]
        return flat
    if word == b"numpat":
        return channels.patterns_count()
    raise ReplyError("ERR unknown subcommand or wrong number of arguments for PUBSUB")


COMMANDS: Final = {
    b"subscribe": (subscribe, -2),
    b"unsubscribe": (unsubscribe, -1),
    b"psubscribe": (psubscribe, -2),
    b"punsubscribe": (punsubscribe, -1),
    b"publish": (publish, 3),
    b"pubsub": (pubsub, -2),
}
