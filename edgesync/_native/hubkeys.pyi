"""The hub's keys: where the operations of all edges meet, and the feed that tells edges of it."""

from collections.abc import Callable, Container, Iterable, Sequence

from typing_extensions import disjoint_base

from edgesync._native.cells import Dot, Entry, Op
from edgesync._native.keyspace import Key, Keyspace
from edgesync.cells.view import View

@disjoint_base
class HubKeys(Keyspace):
    """The hub's replica.

    r         number 0, or as it has called itself: one of a hub
    seq       number of the last change
    clamped   stamps from edges whose clock ran ahead of ours by more than `ahead_ms_max`
    met       (key, cell) of each operation that met something its writer had not seen, or that
              changed a cell in `watched`; without a cell where the key is several things at once.
              Whoever is interested empties it
    """

    ahead_ms_max: int
    met: list[tuple[bytes, bytes]]
    watched: Container[tuple[bytes, bytes]]

    def __new__(
        cls, view: View, *, strategies: Iterable[tuple[bytes, int]] = (), may_pack: bool = True
    ) -> HubKeys: ...
    @property
    def seq(self) -> int: ...
    @property
    def clamped(self) -> int: ...
    @property
    def written(self) -> int:
        """Bytes of what clients of the hub itself have written since it was opened, about."""

    def save_counters(self) -> None:
        """Put the counters into the view: once for all that is stored together."""

    def call_yourself(self, r: int) -> None:
        """Write as replica `r`, one of a hub that was never used, from here on."""

    def restore(
        self, entry: Entry, seen: dict[int, int], knows: Callable[[int, int], bool | None]
    ) -> bool:
        """Merge what an edge holds of a key; returns whether anything was new here.

        entry   all of its cells there; of one it has no cells of, none
        seen    operations the edge has seen, up to which number of each replica: what is not in
                the entry was replaced or removed there. Empty: it only adds
        knows   (r, n) -> whether that operation has been carried out here, and if it is not there
                any more was replaced or removed; None if it has been passed over, so far

        Doing it twice changes nothing more, and any order of edges gives the same cells.
        """

    def hear(self, r: int, op: Op, *, is_known: bool = True) -> None:
        """Carry out an edge's operation. Any order between edges gives the same cells.

        is_known   the edge wrote it as replica r; else (fork, long absence) what it had seen counts
                   for nothing, since what would prove it may be gone

        A stamp from too far in the future counts as now: a wrong clock may not win for days.
        """

    def beginning(self, key: Key, before: list[Dot]) -> list[Dot]:
        """What a cell holds before an operation: one that begins does so beside the removals of
        its key; one that was there has its own dots of them.
        """

    def tombs_of(self, key: bytes) -> list[Dot]:
        """Return the removals of a key that somebody may not have seen."""

    def page(
        self,
        base: int,
        after: int,
        limit: int = 500,
        limit_bytes: int = 1 << 20,
        scope: Sequence[tuple[bytes, bool]] = (),
    ) -> tuple[list[Entry], int, bool]:
        """Return keys that changed after `after`, the position there, and whether that is all.

        base          what the edge has confirmed to have in full: of each key, the cells changed
                      since
        limit_bytes   no further key is begun beyond it; one key comes whole, however large
        scope         which keys the edge wants (keyspace.is_in)

        Not cells changed since `after`: a key that changes again moves on in the feed, so within a
        pass an edge is past changes it never got.
        """

    def whole(self, keys: Iterable[bytes], limit_bytes: int = 1 << 18) -> list[Entry]:
        """Return all there is of some keys, of those there are.

        It goes with any page, of whatever base: what an edge has done and knows is told by the
        key's own number. No further key is begun beyond `limit_bytes`.
        """

    def digest(
        self, after: int = 0, limit: int = 1000, scope: Sequence[tuple[bytes, bool]] = ()
    ) -> tuple[int, int | None]:
        """Return what stands for keys in `scope` whose last change is after `after`, and where to
        go on; None at the end. An edge's are these while it knows all of them, see EdgeKeys.
        """

    def collect(self, first: int, stable: int, limit: int = 1000) -> int:
        """Drop what no edge can need any more of keys last changed in (first, stable].

        stable   every edge has confirmed to have all up to here, and what it wrote before is in

        Returns the position reached; call again until that is `stable`. Nobody sees a difference.
        """
