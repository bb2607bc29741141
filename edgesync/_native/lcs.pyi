"""The longest common subsequence of two strings, by the table everybody uses."""

from typing import Final

CELLS_MAX: Final[int]

def common(one: bytes, other: bytes) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """Return the subsequence, and where it stands in both, from the end to the beginning.

    Each range is (first, last, first, last) of bytes that follow each other in both. Raises
    ValueError when the table would have more than CELLS_MAX cells.
    """
