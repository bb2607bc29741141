"""TCP connections over a link: what both ends do with them.

`stream.py` and `tunnel.py` decide, without sockets and clocks; `end.py` carries bytes between them
and real connections. Who may open what is the edge's business and the hub's.
"""
