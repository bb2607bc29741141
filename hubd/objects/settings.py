"""[objects] of hub.toml: how much the hub keeps for edges."""

import msgspec

from edgesync.units import Bytes


class ObjectsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes of one object, and of all of a tenant, those of equal contents counted once.

    reserve   what the disk keeps free: objects are never what fills it
    """

    size_max: Bytes = Bytes(256 << 20)
    tenant_max: Bytes = Bytes(4 << 30)
    # The log and the registry share the disk: what edges send comes before objects.
    reserve: Bytes = Bytes(256 << 20)
