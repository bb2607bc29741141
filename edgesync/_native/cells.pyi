"""Cells: the unit the local-first store merges, and the rules by which it does (I10)."""

from typing import final

@final
class Dot:
    """One operation as it stands in a cell.

    r, n      its replica and that replica's count of operations; a pair is never used again
    hlc       its stamp
    seq       the hub's sequence number of it; 0 while the hub has not confirmed it here
    pending   an operation of this replica that the hub has not confirmed
    spent     a removal that is noted because others must still hear of it, but no sibling any more:
              a pending one with an amount of ours after it; at the hub, `nothing`
    evicted   a value that only the hub has; all that merging and ranking ask for is here
    """

    __hash__: None  # type: ignore[assignment]

    def __init__(
        self,
        r: int,
        n: int,
        hlc: int,
        kind: int,
        payload: bytes = b"",
        *,
        seq: int = 0,
        pending: bool = False,
        packed: bool = False,
    ) -> None: ...
    @property
    def r(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def hlc(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def pending(self) -> bool: ...
    @property
    def packed(self) -> bool: ...
    @property
    def spent(self) -> bool: ...
    @property
    def evicted(self) -> bool: ...
    @property
    def payload(self) -> bytes:
        """What it wrote: a value, or an amount in decimal. Raises Evicted when it is elsewhere."""

    def __eq__(self, other: object, /) -> bool: ...
    def at(self, seq: int, pending: bool) -> Dot:
        """Return the same operation, confirmed (or not) under that sequence number."""

    def stamped(self, hlc: int) -> Dot:
        """Return the same operation with another stamp."""

    def by(self, r: int) -> Dot:
        """Return the same operation as one of replica `r`."""

    def with_payload(self, payload: bytes) -> Dot:
        """Return it with another payload, as when amounts are folded into one."""

    def left_to_hub(self) -> Dot:
        """Return a confirmed value without its payload."""

@final
class Op:
    """An operation on its way to the hub: what a dot says, and where it belongs.

    q      the hub's sequence of the key as the writer knew it
    name   of the cell; empty for the whole key
    """

    def __init__(
        self,
        n: int,
        hlc: int,
        q: int,
        kind: int,
        key: bytes,
        name: bytes,
        stored: bytes = b"",
        packed: bool = False,
    ) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def hlc(self) -> int: ...
    @property
    def q(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def name(self) -> bytes: ...
    @property
    def stored(self) -> bytes: ...
    @property
    def packed(self) -> bool: ...
    def dot(self, r: int, seq: int) -> Dot:
        """Return it as a dot of that replica, under that sequence number of the hub."""

@final
class Entry:
    """The hub's state of one key: all cells that changed after what an edge confirmed to have.

    position   the hub's sequence of the key's last change
    is_whole   all cells are here, and the key has no others
    tombs      removals of the whole key that somebody may not have seen
    cells      (name, dots)
    """

    def __init__(
        self,
        key: bytes,
        position: int,
        is_whole: bool,
        tombs: list[Dot],
        cells: list[tuple[bytes, list[Dot]]],
    ) -> None: ...
    @property
    def key(self) -> bytes: ...
    @property
    def position(self) -> int: ...
    @property
    def is_whole(self) -> bool: ...
    @property
    def tombs(self) -> list[Dot]: ...
    @property
    def cells(self) -> list[tuple[bytes, list[Dot]]]: ...

def new_dot(r: int, n: int, hlc: int, kind: int, value: bytes, may_pack: bool) -> Dot:
    """Return a pending dot, its value compressed when that is allowed and helps (pack.pyx)."""

def nothing(r: int, n: int, hlc: int, seq: int) -> Dot:
    """Return a dot that says only that a cell has changed, and holds nothing any more."""

def apply(dots: list[Dot], op: Dot, q: int) -> list[Dot]:
    """Return the cell after `op`, whose writer knew the key up to the hub's sequence `q`.

    Idempotent, and any order of concurrent operations gives the same list.
    """

def insert(dots: list[Dot], op: Dot) -> None:
    """Put an operation in its place: dots stand in the order of (r, n)."""

def is_hub(r: int) -> bool:
    """Whether a replica is that of a hub, in whichever life of its keyspace."""

def winner(dots: list[Dot], strategy: int) -> Dot | None:
    """Return the dot that ranks highest; None when the cell is absent under this strategy."""

def base_of(dots: list[Dot], strategy: int) -> Dot | None:
    """Return the VALUE amounts add to; None for nothing, that is 0."""

def meeting_of(dots: list[Dot]) -> int:
    """Return what has met in a cell: 0 nothing, 1 two values, 2 a removal and something.

    Amounts add up, and two who wrote the same agree: nothing has to be chosen there.
    """

def has_value(dots: list[Dot], strategy: int) -> bool:
    """Whether the cell has a value, wherever that is."""

def read(dots: list[Dot], strategy: int) -> bytes | None:
    """Return the cell's value; None when it is absent. Raises Evicted when only the hub has it.

    With amounts: their sum on top of the value. Amounts beside a value that is no number wait
    unseen until somebody replaces it.
    """

def add_up(base: bytes, amounts: list[bytes]) -> bytes:
    """Return `base` plus all `amounts`, exactly, as text; `base` itself when it is no number."""

def encode(dots: list[Dot]) -> bytes:
    """Return a cell's bytes; equal sets of dots give equal bytes."""

def decode(data: bytes) -> list[Dot]:
    """Undo `encode`; raises RecordError on anything else."""

def encode_ops(r: int, ops: list[Op]) -> bytes:
    """Return operations of replica `r`, in order, as they travel (docs/cells-format.md)."""

def decode_ops(data: bytes) -> tuple[int, list[Op]]:
    """Undo `encode_ops`: the replica and its operations; raises RecordError on anything else."""

def first_op(data: bytes) -> int:
    """Return the number of the first operation of what may be only the beginning of `encode_ops`.

    Raises RecordError.
    """

def encode_entries(entries: list[Entry]) -> bytes:
    """Return the hub's state of some keys as it travels (docs/cells-format.md)."""

def decode_entries(data: bytes, *, may_be_evicted: bool = False) -> list[Entry]:
    """Undo `encode_entries`; raises RecordError on anything else.

    may_be_evicted   they come from an edge, which may have left values to a hub
    """
