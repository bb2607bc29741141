"""Subscriptions of edges to keys: news wakes the edges it concerns, and no other.

A fleet's edges want prefixes of their own, mostly. So the question "who wants this key?" is a look
at each length of prefix somebody has, whatever the size of the fleet.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio

from edgesync._native.keyspace import is_in

Scope = Sequence[tuple[bytes, bool]]

# Of a scope with more prefixes, every key is looked at: the index stays small (I7).
INDEXED_MAX: Final = 32


class Subscription:
    """An edge that waits: as which replica it writes, and which keys it wants."""

    def __init__(self, edge: str, replica: int, scope: Scope) -> None:
        self.edge = edge
        self.replica = replica
        self.scope = scope
        self.news = trio.Event()

    def clear(self) -> None:
        """Begin to wait for what happens from now on."""
        self.news = trio.Event()

    def prefixes(self) -> list[bytes]:
        """Return what each key it wants begins with; a key that no rule names is wanted, too."""
        wanted = list({prefix for prefix, is_wanted in self.scope if is_wanted})
        has_rest = any(not prefix for prefix, _ in self.scope)
        return wanted if has_rest and len(wanted) <= INDEXED_MAX else [b""]


class Subscriptions:
    """See the module. `woken` counts how often somebody was."""

    def __init__(self) -> None:
        self.woken = 0
        self._count = 0
        self._by_edge: dict[str, set[Subscription]] = {}
        self._by_replica: dict[int, set[Subscription]] = {}
        self._by_prefix: dict[bytes, set[Subscription]] = {}
        self._lengths: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def open(self, edge: str, replica: int, scope: Scope) -> Iterator[Subscription]:
        """Yield a subscription that ends with the block."""
        made = Subscription(edge, replica, scope)
        prefixes = made.prefixes()
        self._count += 1
        self._by_edge.setdefault(edge, set()).add(made)
        self._by_replica.setdefault(replica, set()).add(made)
        for prefix in prefixes:
            self._by_prefix.setdefault(prefix, set()).add(made)
            self._lengths[len(prefix)] += 1
        try:
            yield made
        finally:
            self._count -= 1
            _remove(self._by_edge, edge, made)
            _remove(self._by_replica, replica, made)
            for prefix in prefixes:
                _remove(self._by_prefix, prefix, made)
                self._lengths[len(prefix)] -= 1
                if not self._lengths[len(prefix)]:
                    del self._lengths[len(prefix)]

    def wake_for(self, keys: Iterable[bytes]) -> None:
        """Wake those who want one of the keys."""
        for key in keys:
            for length in self._lengths:
                for one in self._by_prefix.get(key[:length], ()) if length <= len(key) else ():
                    if not one.news.is_set() and (not one.scope or is_in(key, one.scope)):
                        self._wake(one)

    def wake_edges(self, edges: Iterable[str]) -> None:
        for edge in edges:
            for one in self._by_edge.get(edge, ()):
                self._wake(one)

    def wake_replicas(self, replicas: Iterable[int]) -> None:
        for r in replicas:
            for one in self._by_replica.get(r, ()):
                self._wake(one)

    def wake_all(self) -> None:
        self.wake_edges(list(self._by_edge))

    def _wake(self, one: Subscription) -> None:
        if not one.news.is_set():
            self.woken += 1
            one.news.set()


def _remove(index: dict[Any, set[Subscription]], key: object, made: Subscription) -> None:
    index[key].discard(made)
    if not index[key]:
        del index[key]
