"""The commands of Redis on a keyspace. Importing this package fills the table in `table.py`."""

from edgesync._native.commands import TABLE, Command, carry_out
from edgesync.cells.commands import hashes, keys, lists, scripts, sets, strings, zsets
from edgesync.cells.commands.table import Call

__all__ = [
    "TABLE", "Call", "Command", "carry_out",
    "hashes", "keys", "lists", "scripts", "sets", "strings", "zsets",
]  # fmt: skip
