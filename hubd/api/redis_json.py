"""Redis requests and replies as JSON, without losing anything.

    "text"            bytes that are UTF-8
    {"base64": "…"}   bytes that are not
    {"float": "inf"}  numbers JSON does not have: inf, -inf, nan
    {"name": …}       a map whose keys are text …
    {"pairs": [[…]]}  … and any other

A map that could be taken for one of the marks is given as pairs. Sets are lists, in order.
"""

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import msgspec

from edgesync._native.resp import NullArray, ReplyError
from edgesync.cells import Reply

MARKS: Final = ({"base64"}, {"float"}, {"pairs"})


class Base64(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that are no UTF-8."""

    base64: bytes


Blob = str | Base64
Argument = str | int | float | Base64


def argument(one: Argument) -> bytes:
    """Return an argument of a command as bytes; raises UnicodeEncodeError for half a character."""
    return one.base64 if isinstance(one, Base64) else str(one).encode()


def blob(data: bytes) -> Blob:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Base64(data)


def plain(reply: Reply) -> Any:
    """Return a reply as what JSON has."""
    match reply:
        case None | bool() | int() | str():
            return reply
        case _ if reply is NullArray:
            return None
        case bytes():
            return blob(reply)
        case float():
            return reply if math.isfinite(reply) else {"float": str(reply)}
        case Mapping():
            return _map({_plain_key(key): plain(value) for key, value in reply.items()})
        case AbstractSet():
            return [plain(one) for one in sorted(reply)]
        case list() | tuple():
            return [plain(one) for one in reply]
        case ReplyError():
            return {"error": str(reply)}
    raise TypeError(f"no reply of Redis: {type(reply).__name__}")


def _plain_key(key: Any) -> Blob:
    return blob(key) if isinstance(key, bytes) else str(key)


def _map(found: dict[Blob, Any]) -> Any:
    if all(isinstance(key, str) for key in found) and set(found) not in MARKS:
        return found
    return {"pairs": [[key, value] for key, value in found.items()]}


def reply_of(value: Any) -> Reply:
    """Undo `plain`, with all texts as bytes and sets as lists; raises ValueError."""
    match value:
        case str():
            return value.encode()
        case {"base64": str(data), **rest} if not rest:
            return msgspec.convert(data, bytes)
        case {"float": str(text), **rest} if not rest:
            return float(text)
        case {"pairs": list(pairs), **rest} if not rest:
            return dict(_pair(one) for one in pairs)
        case dict():
            return {key.encode(): reply_of(one) for key, one in value.items()}
        case list():
            return [reply_of(one) for one in value]
    return value


def _pair(value: Any) -> tuple[bytes, Reply]:
    match value:
        case [one, other] if isinstance(key := reply_of(one), bytes):
            return key, reply_of(other)
    raise ValueError("a pair of a map that is none, or whose key is no text")
