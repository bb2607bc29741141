"""What a door makes of files, made again when they change and kept when that cannot be done.

What could not be read is tried again: that a process has no descriptor to spare for a moment is no
reason to go on with what is old for ever.
"""

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from edgesync.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")

AGAIN_S: Final = 5.0


class FollowedFiles(ABC, Generic[T]):
    """See the module.

    what      of several, for the log
    current   what the files said when they could be read last
    problem   why they cannot be read now, "" if they can
    """

    what = "files"

    def __init__(self) -> None:
        """Read the files; raises ConfigError."""
        self.problem = ""
        self._again_at = float("inf")
        self._seen = self._stamps()
        self.current = self.read()

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]: ...

    @abstractmethod
    def read(self) -> T:
        """Return what the files say now; raises ConfigError."""

    def refresh(self) -> bool:
        """Read the files again if one changed; returns whether `current` is another now."""
        stamps = self._stamps()
        if stamps == self._seen and time.monotonic() < self._again_at:
            return False
        self._seen = stamps
        try:
            self.current = self.read()
        except ConfigError as error:  # of two files the other one may follow
            is_passing = isinstance(error.__cause__, OSError)
            self._again_at = time.monotonic() + AGAIN_S if is_passing else float("inf")
            if str(error) != self.problem:
                log.error("%s stay as they were: %s", self.what, error)
            self.problem = str(error)
            return False
        self.problem, self._again_at = "", float("inf")
        log.info("%s read again: file=%s", self.what, self.files[0])
        return True

    def _stamps(self) -> Sequence[object]:
        return [stamp(path) for path in self.files]


def stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file; None for one that is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
