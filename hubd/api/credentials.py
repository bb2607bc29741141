"""Credentials that are valid, and the answers given by them: a stream would outlive its own."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import trio


class ValidCredentials:
    """Tokens or sessions, each by the digest of its secret."""

    def __init__(self) -> None:
        self._digests: set[str] = set()
        self._scopes: dict[str, set[trio.CancelScope]] = {}

    def set(self, digests: Iterable[str]) -> None:
        """Take these for all that are valid; answers under way by others are cancelled."""
        self._digests = set(digests)
        for digest in self._scopes.keys() - self._digests:
            for scope in self._scopes[digest]:
                scope.cancel()

    def has(self, digest: str) -> bool:
        return digest in self._digests

    @contextmanager
    def while_valid(
        self, digest: str, deadline: float = float("inf")
    ) -> Iterator[Callable[[], None]]:
        """Cancel the block when the credential is withdrawn, or at `deadline` (Trio's clock, s).

        Yields a function that lets the block go on to its end all the same.
        """
        with trio.CancelScope(deadline=deadline) as scope:
            scopes = self._scopes.setdefault(digest, set())
            scopes.add(scope)
            try:
                yield partial(_detach, scopes, scope)
            finally:
                scopes.discard(scope)
                if not scopes and self._scopes.get(digest) is scopes:
                    del self._scopes[digest]


def _detach(scopes: set[trio.CancelScope], scope: trio.CancelScope) -> None:
    scopes.discard(scope)
    scope.deadline = float("inf")
