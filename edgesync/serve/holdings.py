"""Who holds how many of something that is limited for all: whoever has most gives way. [sans-IO]

So nobody, with a fault or without manners, keeps all others out (I8).
"""

from typing import Generic, TypeVar

T = TypeVar("T")


class Holdings(Generic[T]):
    """What each holder has, the oldest first."""

    def __init__(self) -> None:
        self._of: dict[str, dict[T, None]] = {}

    def add(self, holder: str, one: T) -> None:
        self._of.setdefault(holder, {})[one] = None

    def remove(self, holder: str, one: T) -> None:
        """Forget one, if it is there."""
        held = self._of.get(holder, {})
        held.pop(one, None)
        if not held:
            self._of.pop(holder, None)

    def most(self) -> dict[T, None]:
        """Return what whoever has most holds; empty if nobody has anything."""
        return max(self._of.values(), key=len, default={})
