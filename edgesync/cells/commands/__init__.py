"""The commands of Redis on a keyspace. Importing this package fills the table in `table.py`."""

from edgesync._native.commands import TABLE, Command, carry_out
from edgesync.cells.commands import (
    bits,
    hashes,
    keys,
    lcs,
    lists,
    scripts,
    sets,
    sort,
    strings,
    zcombine,
    zranges,
    zsets,
)
from edgesync.cells.commands.table import Call

__all__ = [
    "TABLE",
    "Call",
    "Command",
    "bits",
    "carry_out",
    "hashes",
    "keys",
    "lcs",
    "lists",
    "scripts",
    "sets",
    "sort",
    "strings",
    "zcombine",
    "zranges",
    "zsets",
]  # fmt: skip
