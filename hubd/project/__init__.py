"""Projectors: each reads the log from its own cursor and keeps one view of it in the state.

Nothing here can hold back an acknowledgement: the log is durable before a projector sees it. A
projector that cannot go on lags, says so in its `Progress`, and tries again.
"""
