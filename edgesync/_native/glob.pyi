r"""Redis' patterns (`*`, `?`, `[a-z]`, `[^x]`, `\\`), matched without backtracking into the past."""

from typing import Final, final

PATTERN_MAX: Final[int]

@final
class Glob:
    """A pattern, compiled; raises ValueError for one of more than PATTERN_MAX bytes."""

    def __new__(cls, pattern: bytes) -> Glob: ...
    def matches(self, name: bytes) -> bool:
        """Whether the whole name is what the pattern says."""
