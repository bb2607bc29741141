"""An edge's keys, and what of them the hub has not confirmed."""

from collections.abc import Iterable, Sequence
from typing import Final, final

from typing_extensions import disjoint_base

from edgesync._native.cells import Dot, Entry, Op
from edgesync._native.keyspace import Key, Keyspace
from edgesync.cells.view import View

UNNAMED: Final[int]
NAMED_FROM: Final[int]
NAMED_TO: Final[int]

@final
class Pending:
    """An operation the hub has not confirmed; what it wrote stands in its cell.

    n      its number here
    q      the hub's sequence of the key as its writer knew it
    kind   VALUE, AMOUNT or TOMB
    name   of the cell; empty for a removal of the whole key
    """

    @property
    def n(self) -> int: ...
    @property
    def q(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def name(self) -> bytes: ...

@disjoint_base
class EdgeKeys(Keyspace):
    """An edge's replica.

    r         a number drawn by chance, or as a hub has named it
    sent      operations up to this number have been given to the link
    pending   operations not confirmed
    evicted   keys whose values were left to the hub, since the start
    taken_as, taken_in   as which replica, and in which opening of the store, the operations were
                         made that `take` returned last; 0 where that was not noted
    """

    def __new__(
        cls, view: View, *, strategies: Iterable[tuple[bytes, int]] = (), may_pack: bool = True
    ) -> EdgeKeys: ...
    @property
    def sent(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    def save_counters(self) -> None:
        """Put the counters into the view: once for all that is stored together."""

    @property
    def taken_as(self) -> int: ...
    @property
    def taken_in(self) -> int: ...
    def open_as(self, opening: int) -> None:
        """Note of what is made from here on that it was in that opening of the store, by chance.

        What was made before stays as it is, until it is told: a copy of the store has it as well.
        """

    @property
    def sealed(self) -> int:
        """Operations up to this number are not merged with later ones: a copy may have them."""

    def call_yourself(self, r: int) -> None:
        """Take a number drawn by chance from NAMED_FROM to NAMED_TO: before the first operation."""

    def rejoin(self, r: int) -> None:
        """Be the replica the hub has named now: at first contact, after a fork or a long absence.

        What the hub has not confirmed counts as written without having seen anything, and what it
        has delivered so far counts for nothing until it is delivered again: the hub may have
        dropped what would tell "after" from "beside". At worst two values stand beside each other.
        """

    def reclaim(self, limit: int = 256) -> list[bytes]:
        """Remove keys past their deadline that only this edge knows; returns those it looked at.

        Others stay, unseen, until the hub removes them: it alone knows whether somebody has given
        them more time.
        """

    def is_on_the_wire(self, n: int) -> bool:
        """Whether the hub may have operation n already: it can be followed, not changed."""

    def context(self, key: Key) -> int:
        """The hub's sequence number up to which a writer here knows the key."""

    def take(
        self, limit: int = 1000, limit_bytes: int = 1 << 20, *, again: int | None = None
    ) -> list[Op]:
        """Return the next operations for the link, in order, and count them as sent.

        All of them were made as one replica (`taken_as`), in one opening of the store (`taken_in`).
        From here on they are not merged with later ones, for the hub may have them.

        again   only those behind this number that have been sent, for a hub that lost them
        """

    def oldest_pending(self) -> int:
        """Return the number of the oldest operation the hub has not confirmed; 0 without any."""

    def oldest_stamp(self) -> int:
        """Return the stamp of the oldest operation the hub has not confirmed; 0 without any."""

    def has_untaken(self) -> bool:
        """Whether `take` would return anything."""

    def restamp(self, after: int, last: int, later_ms: int, limit: int) -> int:
        """Give operations behind number `after` deadlines, and stamps, that much later.

        For a clock that was wrong until now: nobody has seen them, so their order is all that has
        to stay. Those given to the link stay as they are. Stamps are not given earlier, for what is
        written next must not be: the hub takes care of those that are ahead.

        last    the last one made before that was begun (`advance_clock`). Those behind it have
                their stamps; of their deadlines, those have to be later that were given before
                the time of keys was, which is then the last thing to move
        limit   operations looked at in one go

        Returns the number after which to go on; 0 at the end.
        """

    def show_shift(self, first: int, after: int, last: int, later_ms: int) -> None:
        """Know that operations behind `first` are being given deadlines that much later, and are as
        far as `after`; 0 ms: no more.
        """

    def advance_clock(self, later_ms: int) -> None:
        """Give the next operation a stamp behind all there will be that much later."""

    def seen(self) -> dict[int, int]:
        """Return up to which number of each replica operations are known here."""

    def note_seen(self, seen: dict[int, int]) -> None:
        """End a pass: operations of each replica up to that number are in what is here now, or
        were replaced or removed before.
        """

    def held(
        self,
        after: bytes | None,
        limit: int = 500,
        limit_bytes: int = 1 << 18,
        scope: Sequence[tuple[bytes, bool]] = (),
    ) -> tuple[list[Entry], bytes | None]:
        """Return what is here of the keys behind `after` that is not to be told as operations, and
        the last key looked at; None at the end.

        Whole are entries of keys in `scope`: what is not in them is not known here, or gone. Keys
        that are not listed are as one without cells.
        """

    def deliver(self, entries: list[Entry], acked: int) -> None:
        """Take the hub's state of some keys, made with all our operations up to `acked` in it.

        What the hub has not heard of yet is done again on top: nobody sees their own writes go,
        and where the hub knew what we had not seen, both stand beside each other.
        """

    def let_go(self, acked: int, scope: Sequence[tuple[bytes, bool]]) -> None:
        """Take operations up to `acked` on keys outside `scope` as done: they do not come back."""

    def forget_unlisted(
        self,
        acked: int,
        scope: Sequence[tuple[bytes, bool]] = (),
        after: bytes | None = None,
        limit: int = 1000,
    ) -> bytes | None:
        """End a pass from the beginning: what the hub did not list, it does not have.

        Listed are the keys delivered since the hub gave this name: it forgets nothing before an
        edge has confirmed a whole pass. Looks at `limit` keys behind `after`, and returns where to
        go on; None at the end.
        """

    def digest(
        self,
        after: bytes | None = None,
        limit: int = 1000,
        scope: Sequence[tuple[bytes, bool]] = (),
    ) -> tuple[int, bytes | None]:
        """Return what stands for keys in `scope` the hub has delivered, behind `after` in order,
        and where to go on; None at the end.

        With all its pages taken and nothing pending the sum is the hub's: the same keys, as of the
        same changes. (What a cell holds is folded at the hub, so it is not part of it.)
        """

    def evict(
        self, wanted: int, looks: int = 1000, scope: Sequence[tuple[bytes, bool]] = ()
    ) -> int:
        """Leave values to the hub until `wanted` bytes are free; returns how many are.

        looks   keys looked at, at most
        scope   keys the hub is asked for; others stay

        It goes round through all keys, and passes over those used since it came by last, or the
        time before (`remember`).
        """

    def evict_key(self, name: bytes) -> int:
        """Leave the larger values of a key to the hub; returns how many bytes are free by that.

        None of a key with an operation the hub has not confirmed, or that it has not delivered
        since it gave us this name: only from what it has delivered do we know that it has it.
        """

    def is_clean(self, dots: list[Dot]) -> bool:
        """Whether the hub has confirmed all of them."""

    def settle(self, stable: int) -> None:
        """Forget keys that are gone and that the hub has forgotten too, up to that number.

        At most `SETTLED` of them; a page brings fewer that are gone.
        """
