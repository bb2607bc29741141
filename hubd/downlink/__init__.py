"""The downlink: a journal of records for each edge, in owned state.

It is written in the transaction of what caused it, delivered in order by the link, and forgotten
once the edge has it on disk. docs/protocol.md says what becomes of it when either side is restored.
"""
