"""Scripts in a process of their own: `process.py` runs them, `supervisor.py` keeps it alive.

A script gets QuickJS with 8 MB, 256 kB of stack and 50 ms of CPU; no files, no sockets, no clock
but the one it is shown. Whatever it does, the edge hears back within 250 ms or ends the process.
"""
