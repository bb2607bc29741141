"""A hub's knowledge of its registry, and the file that keeps it for a start without.

The file says which registry that was, too: of another one in its place, or of an empty one, the hub
would learn that every edge is revoked (I15).
"""

from pathlib import Path
from typing import Final

import msgspec

from edgesync.store.directory import replace_file
from hubd.registry.api_tokens import ApiToken
from hubd.registry.edges import RegisteredEdge
from hubd.registry.users import User

FILE: Final = "registry.known"


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of the registry that a running hub has to know."""

    keys: dict[str, str]
    edges: list[RegisteredEdge]
    guests: dict[str, str]
    owners: dict[str, str]
    tenants: list[str]
    tokens: list[ApiToken]
    users: list[User] = []


class Known(msgspec.Struct, frozen=True, array_like=True):
    """The contents of the registry `identity` when it was read; older files have no identity."""

    read_at_ns: int
    changes: Changes
    identity: str = ""


def save(folder: Path, known: Known) -> None:
    """Replace the file, durably; raises OSError."""
    replace_file(folder / FILE, msgspec.msgpack.encode(known))


def load(folder: Path) -> Known | None:
    """Return what was saved; None for nothing, or for what is torn."""
    try:
        return msgspec.msgpack.decode((folder / FILE).read_bytes(), type=Known)
    except (OSError, msgspec.DecodeError):
        return None


def identity_of(folder: Path) -> str:
    """Return which registry the hub of `folder` knows, "" for none."""
    found = load(folder)
    return found.identity if found else ""


def forget_identity(folder: Path) -> None:
    """Let the hub of `folder` take the registry that it finds next; raises OSError."""
    if found := load(folder):
        save(folder, msgspec.structs.replace(found, identity=""))
