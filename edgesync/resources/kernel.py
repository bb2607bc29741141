"""The kernel's small text files, read without trust: what is not as expected is not known."""

from pathlib import Path
from typing import Final

FILE_BYTES_MAX: Final = 64 * 1024
# Above this a number is a way to say "no limit", rounded to pages of some size.
NO_LIMIT_FROM: Final = 1 << 60
DIGITS_MAX: Final = 20


def read_text(path: Path) -> str | None:
    """Return what a file says; None when there is none, or it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("ascii", "replace")
    except (OSError, ValueError):
        return None


def number(text: str | None) -> int | None:
    """Return a number without a sign; None for anything else."""
    word = (text or "").strip()
    return int(word) if word.isascii() and word.isdigit() and len(word) <= DIGITS_MAX else None


def read_number(path: Path) -> int | None:
    return number(read_text(path))


def read_limit(path: Path) -> int | None:
    """Return a limit in bytes; None for `max`, for v1's way to say it, and for what is no limit."""
    found = read_number(path)
    return found if found is not None and 0 < found < NO_LIMIT_FROM else None


def read_table(path: Path) -> dict[str, int]:
    """Return the lines `name number` or `name: number kB` of a file; kB as bytes."""
    table: dict[str, int] = {}
    for line in (read_text(path) or "").splitlines():
        words = line.split()
        found = number(words[1]) if len(words) >= 2 else None
        if found is not None:
            table[words[0].rstrip(":")] = found * (1024 if words[2:] == ["kB"] else 1)
    return table
