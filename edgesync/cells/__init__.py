"""The local-first store: keys every edge writes to as if there were no cloud.

What is here costs nothing to import: an edge without keys and Redis clients stays small.
"""

from collections.abc import Mapping
from typing import Final

# In the edge's store; the rows are described in native/keyspace.pyx.
DATABASE: Final = "cells"

Reply = object
Argument = bytes | str | int | float


def as_bytes(argument: Argument) -> bytes:
    """Return what a client would send for it; raises TypeError for what has no plain form."""
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, bool) or not isinstance(argument, str | int | float):
        raise TypeError(f"a command takes bytes, str, int or float, {_instead(argument)}")
    return str(argument).encode()


def _instead(argument: object) -> str:
    """Say what to pass in place of an argument that is none."""
    name = type(argument).__name__
    if argument is None:
        return "not None: delete the key, or pass an empty string"
    if isinstance(argument, bool):
        return "not bool: pass 1 or 0"
    if isinstance(argument, dict):
        return "not dict: pass hset(key, mapping=…), or json.dumps of it"
    if isinstance(argument, list | tuple | set):
        return f"not {name}: pass its items one by one, or json.dumps of it"
    return f"not {name}: pass its bytes or text"


def ending(ttl_s: float | None) -> tuple[Argument, ...]:
    """Return what `SET` takes for a key that ends after so many seconds, or stays."""
    return () if ttl_s is None else ("PX", round(ttl_s * 1000))


def hash_pairs(
    field: Argument | Mapping[Argument, Argument] | None,
    value: Argument | None,
    mapping: Mapping[Argument, Argument] | None,
) -> list[Argument]:
    """Return fields and values in turn, given in any of the ways `hset` takes them."""
    if isinstance(field, Mapping):
        mapping, field = {**field, **(mapping or {})}, None
    if (field is None) != (value is None):
        raise TypeError("a field and its value go together: hset(key, field, value)")
    pairs = [] if field is None or value is None else [field, value]
    pairs += [part for pair in (mapping or {}).items() for part in pair]
    if not pairs:
        raise TypeError("no fields: hset(key, field, value) or hset(key, mapping={field: value})")
    return pairs
