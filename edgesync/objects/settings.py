"""[objects] of edge.toml: how much the hub's objects may take here."""

import msgspec

from edgesync.units import Bytes


class ObjectsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Objects are files of their own beside the store.

    limit     of all together; 0: none are fetched
    reserve   what the disk keeps free: objects are never what fills it
    """

    limit: Bytes = Bytes(256 << 20)
    # The journal shares the disk: readings come before objects.
    reserve: Bytes = Bytes(64 << 20)
