"""Tables of the command line: as wide as the terminal, and whole where nobody looks at a screen."""

import os
import shutil
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.table import Table

# A file or another program takes lines of any length; a cell that is cut is lost to it.
UNBOUNDED: Final = 100_000


def print_table(table: "Table") -> None:
    """Print to the standard output; `COLUMNS` says how wide, if it is set."""
    from rich.console import Console

    Console(width=_width()).print(table)


def _width() -> int:
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return UNBOUNDED
