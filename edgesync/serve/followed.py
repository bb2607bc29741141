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

import trio

from edgesync.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")

AGAIN_S: Final = 5.0
# What changes with a file; None for one that is not there.
Stamp = tuple[int, int, int] | None


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
        self._offered: tuple[Sequence[Stamp], T] | None = None
        self._seen = self.stamps()
        self.current = self.read()

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]: ...

    @abstractmethod
    def read(self) -> T:
        """Return what the files say now; raises ConfigError."""

    def refresh(self) -> bool:
        """Read the files again if one changed; returns whether `current` is another now."""
        stamps = self.stamps()
        if not self._is_due(stamps):
            return False
        self._seen = stamps
        offered, self._offered = self._offered, None
        try:
            if offered is not None and offered[0] == stamps:
                self.current = offered[1]
            else:
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

    async def follow(self) -> bool:
        """Do as `refresh` does, and read in a thread: a large file holds up nobody."""
        stamps = self.stamps()
        if not self._is_due(stamps):
            return False
        try:
            made = await trio.to_thread.run_sync(self.read)
        except ConfigError:
            return self.refresh()  # which says why
        if self.stamps() != stamps:
            return False  # they changed meanwhile: at the next look
        self.offer(stamps, made)
        return self.refresh()

    def offer(self, stamps: Sequence[Stamp], made: T) -> None:
        """Let the next `refresh` take what was made of the files, if they have these stamps still.

        May be called in any thread.
        """
        self._offered = stamps, made

    def stamps(self) -> Sequence[Stamp]:
        return [stamp(path) for path in self.files]

    def _is_due(self, stamps: Sequence[Stamp]) -> bool:
        return stamps != self._seen or time.monotonic() >= self._again_at


def stamp(path: Path) -> Stamp:
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None


def stamp_of(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_size, found.st_ino
