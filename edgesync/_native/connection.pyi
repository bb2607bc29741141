"""A Redis client's connection: requests off its socket, replies onto it, in their order.

A request is answered at once, and the answer sent when what it rests on is on disk (I1): replies
wait behind their *gates*, the commits that must come first.
"""

from collections.abc import Callable, Iterable
from typing import Final

from typing_extensions import disjoint_base

from edgesync._native.commands import Runner
from edgesync._native.resp import Parser, ReplyError

# The gates of what rests on no commit: of cells, of points.
OPEN: Final[tuple[int, int]]
# What `serve` returns.
GONE: Final[int]
SERVED: Final[int]
HELD: Final[int]
LEFT: Final[int]
# What a mistake of ours costs its client.
FAILED: Final[ReplyError]

@disjoint_base
class Connection:
    """See the module. `number` is the socket's, which stays its owner's to close."""

    last: str
    def __init__(self, number: int, parser: Parser) -> None: ...
    @property
    def number(self) -> int: ...
    @property
    def parser(self) -> Parser: ...
    def receive(self) -> bool:
        """Read what has come; False when the other end has gone."""

    def serve(
        self, runner: Runner, proto: int, unsent_max: int, gates: Callable[[], tuple[int, int]]
    ) -> int:
        """Read what has come, answer it as `answer` does and send what is due.

        Returns GONE, SERVED, HELD when replies wait for a commit, or LEFT when there is something
        left to be done that is more than this.
        """

    def release(self, done: list[int]) -> bool:
        """Do as `open` does and send what is due; False when there is something left to be done."""

    @property
    def has_requests(self) -> bool:
        """Whether requests have come that nobody has taken."""

    def take(self) -> list[bytes]:
        """Take the next request."""

    def answer(
        self,
        runner: Runner,
        proto: int,
        unsent_max: int,
        gates: Callable[[], tuple[int, int]],
    ) -> int:
        """Answer requests as long as they are commands of the table; returns how many.

        One that needs values the hub has is left where it is: somebody may wait for them.

        unsent_max   bytes of replies from which on the rest has to wait
        gates        gives those of what was done up to now

        A mistake of ours costs its client an answer, nobody more (I8).
        """

    @property
    def unsent(self) -> int:
        """Bytes of replies that wait for a commit, or for the client."""

    @property
    def has_due(self) -> bool:
        """Whether there are replies that may be sent."""

    @property
    def is_waiting(self) -> bool:
        """Whether there are replies that wait for a commit."""

    def owe(self, replies: Iterable[object], proto: int, gates: tuple[int, int]) -> None:
        """Send replies behind those before them, once their gates are open."""

    def open(self, done: list[int]) -> None:
        """Let go what rests on nothing but commits up to `done`: the latest of each kind."""

    def refuse(self, kind: int, done: int, problem: ReplyError, proto: int) -> None:
        """Put `problem` in place of each reply that rests on a commit of that kind after `done`."""

    def send(self) -> bool:
        """Send what the socket takes of what is due; False when the other end has gone."""
