"""What the machine has left, and what an edge does about it.

`levels`, `policy`, `pace` and `meters` decide, without I/O; `memory`, `cpu`, `disk`, `power` and
`pressure` read the kernel's files below a root folder; `monitor` does both on a timer. Imported by
edges that use keys or have a `[resources]` section.
"""
