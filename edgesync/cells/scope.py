"""Which keys an edge is told: those it wishes to have and the hub grants.                [sans-IO]

A wish is a scope as `keyspace.is_in` reads it: (prefix, whether those with it are in), the longest
first. A grant is prefixes of which any will do; none at all is everything.
"""

from collections.abc import Sequence
from typing import Final

from edgesync._native.keyspace import is_in

Scope = tuple[tuple[bytes, bool], ...]

# Prefixes of one grant, and the bytes of one: they travel with each question for keys.
GRANT_MAX: Final = 32
GRANT_BYTES_MAX: Final = 255


def narrowed(wish: Sequence[tuple[bytes, bool]], grant: Sequence[bytes]) -> Scope:
    """Return the scope of the keys that are in both."""
    if not grant:
        return tuple(wish)
    allowed = [*((prefix, True) for prefix in _longest_first(grant)), (b"", False)]
    # The rule that decides for a key in one of them decides for the longest prefix of the key that
    # stands in any, too.
    prefixes = {prefix for prefix, _ in (*wish, *allowed)}
    return tuple(
        (prefix, bool(is_in(prefix, wish) and is_in(prefix, allowed)))
        for prefix in _longest_first(prefixes)
    )


def granted(key: bytes, grant: Sequence[bytes]) -> bool:
    """Return whether an edge with this grant may be told of a key."""
    return not grant or any(key.startswith(prefix) for prefix in grant)


def _longest_first(prefixes: Sequence[bytes] | set[bytes]) -> list[bytes]:
    return sorted(prefixes, key=lambda prefix: (-len(prefix), prefix))
