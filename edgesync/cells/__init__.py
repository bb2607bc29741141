"""The local-first store: keys every edge writes to as if there were no cloud.

What is here costs nothing to import: an edge without keys and Redis clients stays small.
"""

from typing import Final

# In the edge's store; the rows are described in native/keyspace.pyx.
DATABASE: Final = "cells"

Reply = object
Argument = bytes | str | int | float


def as_bytes(argument: Argument) -> bytes:
    """Return what a client would send for it."""
    return argument if isinstance(argument, bytes) else str(argument).encode()
