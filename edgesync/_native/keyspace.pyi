"""Keys: cells on top of an ordered map of bytes, the *view*."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, final

from typing_extensions import disjoint_base

from edgesync._native.cells import Dot
from edgesync._native.clock import Clock
from edgesync.cells.view import View

STRING: Final[int]
HASH: Final[int]
SET: Final[int]
ZSET: Final[int]
LIST: Final[int]
STRING_CELL: Final[bytes]
TTL_CELL: Final[bytes]
NEVER: Final[int]
KEY_BYTES_MAX: Final[int]
NAME_BYTES_MAX: Final[int]
WEIGHT_ROW: Final[bytes]
PLACE_BYTES: Final[int]

class WrongType(Exception):
    """A key is of another type than was asked for."""

def sortable(score: float) -> bytes:
    """Return eight bytes that sort as the numbers do."""

def score_of(data: bytes) -> float:
    """Undo `sortable`."""

def is_in(key: bytes, scope: Sequence[tuple[bytes, bool]]) -> bool:
    """Whether a key is in a scope: (prefix, whether those with it are), the longest first.

    The first prefix that fits counts; a key with none of them is in it.
    """

@final
class Key:
    """What one key is, apart from the cells of a collection."""

    def __new__(cls, name: bytes) -> Key: ...
    @property
    def name(self) -> bytes: ...
    @property
    def kseq(self) -> int: ...
    @property
    def kid(self) -> int: ...

@disjoint_base
class Keyspace:
    """The keys of one replica, in `view`.

    strategies   (prefix, strategy), the longest prefix counts; the empty one is the default
    may_pack     compress values where that helps

    r            this replica; 0 is the hub, and an edge has none before a hub has named it
    n            operations made here
    keys         keys present, those past their deadline too until they are removed
    """

    now_ms: int
    may_pack: bool

    def __new__(
        cls, view: View, *, strategies: Iterable[tuple[bytes, int]] = (), may_pack: bool = True
    ) -> Keyspace: ...
    @property
    def view(self) -> View: ...
    @property
    def r(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def data(self) -> int:
        """Bytes of all keys, members and values, as they are kept: packed, siblings each."""

    def weigh(self) -> int:
        """Count `data` anew, row by row."""

    def choose(self, strategies: Iterable[tuple[bytes, int]]) -> None:
        """Rank siblings by these from now on; needs no traffic, and can be undone."""

    def strategies(self) -> list[tuple[bytes, int]]:
        """Return the rules, the longest prefix first and the default last."""

    def strategy_of(self, key: bytes) -> int:
        """Return the strategy that ranks this key's siblings."""

    def load_counters(self) -> None:
        """Take the counters from the view, as after a batch that was not stored."""

    def type_of(self, key: bytes) -> int:
        """Return STRING, HASH, SET, ZSET or LIST; 0 when the key is absent."""

    def types(self, key: bytes) -> dict[int, Dot]:
        """Return the types a key is of at once, each with its highest dot; none when it is of one.

        Two edges made it as different things. It shows as what `winner` of these dots is.
        """

    def get(self, key: bytes, name: bytes) -> bytes | None:
        """Return the value of a cell; None when it is absent. Raises Evicted."""

    def has(self, key: bytes, name: bytes) -> bool:
        """Whether a cell is present, wherever its value is."""

    def get_string(self, key: bytes) -> bytes | None:
        """Return a string; None when it is absent. Raises Evicted, and WrongType for others."""

    def deadline(self, key: bytes) -> int | None:
        """Return when the key expires, in Unix ms; NEVER, or None when the key is absent."""

    def stored_bytes(self, key: bytes) -> int | None:
        """Return how many bytes of rows a key takes; None when it is absent."""

    def siblings(self, key: bytes, name: bytes) -> list[Dot]:
        """Return the dots of a cell: more than one live is a conflict somebody may resolve."""

    def is_evicted(self, key: bytes) -> bool:
        """Whether only the hub has some value of a key."""

    def count(self, key: bytes, kind: int) -> int:
        """Return how many cells of that type are present."""

    def cells(
        self,
        key: bytes,
        kind: int,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (name without its type, value) of present cells in [start, stop), in order.

        Raises Evicted at the first value that only the hub has.
        """

    def cell_names(self, key: bytes, kind: int, start: bytes = b"") -> Iterator[bytes]:
        """Yield the names, without their type, of present cells from `start` on, in order."""

    def by_score(
        self, key: bytes, low: bytes = b"", high: bytes = ..., *, reverse: bool = False
    ) -> Iterator[tuple[float, bytes]]:
        """Yield (score, member) in order, from `low` to before `high`: sortable score | member."""

    def names(
        self, after: bytes | None = None, prefix: bytes = b"", limit: int = 1000
    ) -> list[bytes]:
        """Return up to `limit` keys with that prefix behind `after`, present or not, in order."""

    def expired(self, limit: int = 1000) -> list[bytes]:
        """Return keys past their deadline that are still kept."""

    def give_up_deadline(self, key: bytes) -> None:
        """Take a key that cannot be read off the list of deadlines: it would be first for ever."""

    def walk(
        self, start: bytes, stop: bytes, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield rows of the view in [start, stop), some at a time."""

    def remember(self) -> None:
        """Note from here on which keys are read and written.

        Not when, and not of each: names are put into a set, and one that is full takes the place of
        the one before it. What is in neither was not used for a while.
        """

    def put(self, key: bytes, name: bytes, value: bytes) -> None:
        """Set a cell: what it held is replaced."""

    def push(self, key: bytes, side: int, values: Iterable[bytes]) -> None:
        """Put values at an end of a list, one after the other: 0 is the left end, 1 the right."""

    def insert(self, key: bytes, low: bytes, high: bytes, value: bytes) -> bool:
        """Put a value between two elements of a list that are neighbours, given by their names.

        False when there is no name left between theirs: they were parted too often.
        """

    def set_string(self, key: bytes, value: bytes, keep_ttl: bool = False) -> None:
        """Make the key this string, whatever it was; without a deadline unless that is kept."""

    def put_many(self, key: bytes, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set several cells of one key."""

    def remove(self, key: bytes, name: bytes) -> None:
        """Remove a cell; the caller knows that it is present."""

    def remove_many(self, key: bytes, names: Iterable[bytes]) -> None:
        """Remove several cells of one key that are present."""

    def add(self, key: bytes, name: bytes, amount: bytes) -> None:
        """Add a decimal amount to a cell; nothing anybody adds elsewhere is lost by it."""

    def delete(self, key: bytes) -> None:
        """Remove a key with all its cells."""

    def expire(self, key: bytes, deadline_ms: int) -> None:
        """Let the key end at that time, in Unix ms; NEVER lets it stay."""
