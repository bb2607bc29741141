"""Remote procedure calls of devices: states, limits, order.                            [sans-IO]

A call is made at the hub and stored there; it waits for the edge in the hub's journal, and at the
edge, in its store, for the device. docs/rpc.md has the states and who sets them.
"""
