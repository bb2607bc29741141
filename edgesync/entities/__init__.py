"""Entities of an edge, their attributes, relations and alarms, as keys that are replicated.

One model for both sides: the edge and the hub read a view of their keys and plan commands on them,
and what carries keys carries all of this, both ways, with tombstones and without a second mechanism
of sync. docs/entities.md describes the keys. Nothing here touches a socket, a file or a clock.
"""
