"""What every command goes through, from its request to its reply."""

from collections.abc import Callable, Sequence
from typing import Final, final

from typing_extensions import disjoint_base

from edgesync._native.keyspace import Keyspace
from edgesync._native.points import Columns
from edgesync._native.resp import TOO_LARGE as TOO_LARGE
from edgesync._native.resp import ReplyError
from edgesync.cells.commands import Call

WRONG_TYPE: Final[str]
LACKING_MAX: Final[int]

@final
class Command:
    """One row of the table; `arity` counts the name too, negative: at least that many.

    keys     first, last and step of the arguments that are keys
    grows    whether it may add data: Redis' flag `denyoom`
    movable  finds those that are keys in other places; None for none
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Call, Sequence[bytes]], object],
        arity: int,
        writes: bool,
        keys: tuple[int, int, int],
        grows: bool,
        movable: Callable[[Sequence[bytes]], list[bytes]] | None = None,
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def run(self) -> Callable[[Call, Sequence[bytes]], object]: ...
    @property
    def arity(self) -> int: ...
    @property
    def writes(self) -> bool: ...
    @property
    def keys(self) -> tuple[int, int, int]: ...
    @property
    def grows(self) -> bool: ...
    @property
    def movable(self) -> Callable[[Sequence[bytes]], list[bytes]] | None: ...

# By name, in the spellings of most clients: `get` and `GET`.
TABLE: Final[dict[bytes, Command]]

class EvictedReply(ReplyError):
    """What a command says that needs values only the hub has. Nothing of it has happened.

    keys   that it names and that lack values, some of them if there are many
    """

    keys: Sequence[bytes]
    def __init__(self, keys: Sequence[bytes]) -> None: ...

def carry_out(call: Call, request: list[bytes]) -> object:
    """Carry out one command of the table and return its reply, which may be a ReplyError."""

def run(one: Command, call: Call, request: list[bytes]) -> object:
    """Run a command that may run; what it raises is its reply."""

def keys_of(one: Command, request: list[bytes]) -> list[bytes]:
    """Return the arguments of a request that are keys."""

def miscounted(name: str, arity: int, request: Sequence[bytes]) -> ReplyError | None:
    """Return what is to be said when a command comes with too few or too many arguments."""

def unknown(request: Sequence[bytes]) -> ReplyError:
    """Return what is to be said of a command that there is none."""

@disjoint_base
class Runner:
    """Runs commands on the keys of a store, each at its time.

    wall_ns     the machine's clock
    behind_ms   how much it is, as far as that is known: keys go by `now_ms`
    generation  number of the commit that will store what the next command changes
    commands    run since the start; `errors` of them were answered by one. One that lacks values
                has not been run: whoever waits for them runs it again.
    on_change   is called with the name and the request of a command that has changed rows somebody
                listens for (overlay.touched); None while nobody does
    on_slow     is called with a request that took longer than `slow_ns`, and how long: ns
    is_noted    `note_changes` has been called, and nobody has taken note since
    wanted      … nor is it called before this operation has been made
    columns     takes points of series; None while no client has asked for any
    """

    behind_ms: int
    generation: int
    on_change: Callable[[str, Sequence[bytes]], None] | None
    on_slow: Callable[[Sequence[bytes], int], None] | None
    slow_ns: int
    is_noted: bool
    wanted: int
    columns: Columns | None
    def __init__(
        self,
        space: Keyspace,
        call: Call,
        wall_ns: Callable[[], int],
        monotonic_ns: Callable[[], int] | None = None,
    ) -> None: ...
    def now_ms(self) -> int:
        """Return the time that stamps and deadlines go by.

        A step of the machine's clock is noticed here, before anything is compared with it.
        """

    def clock_stepped(self, by_ms: int) -> None:
        """Learn that the machine's clock was set, by so much."""

    @property
    def space(self) -> Keyspace: ...
    @property
    def call(self) -> Call: ...
    @property
    def wall_ns(self) -> Callable[[], int]: ...
    @property
    def commands(self) -> int: ...
    @property
    def errors(self) -> int: ...
    def note_changes(self) -> None:
        """Learn that there is something to be committed: called once for all until it is."""

    def gate(self) -> int:
        """Return the generation whose commit a reply given now has to wait for; 0 for none."""

    def run(self, request: list[bytes]) -> object:
        """Carry out a command; its reply may be given away when `gate` says so."""
