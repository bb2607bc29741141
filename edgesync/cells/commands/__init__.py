"""The commands of Redis on a keyspace. Importing this package fills the table in `table.py`."""

from edgesync.cells.commands import hashes, keys, lists, sets, strings, zsets
from edgesync.cells.commands.table import TABLE, Call, Command, carry_out

__all__ = [
    "TABLE", "Call", "Command", "carry_out",
    "hashes", "keys", "lists", "sets", "strings", "zsets",
]  # fmt: skip
