"""Refused messages and rejected clients of a door: counts, and the newest few."""

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from edgesync.serve.devices.thingsboard import PROVISION, Device
from edgesync.status import RefusalView
from edgesync_transport.seldom import Seldom

log = logging.getLogger(__name__)

SHOWN: Final = 10
TOPIC_CHARS_MAX: Final = 200


class Refusals:
    """Counts since the start; `newest` has the last of them at its end."""

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self.count = 0
        self._wall_ns = wall_ns
        self._newest: deque[RefusalView] = deque(maxlen=SHOWN)

    @property
    def newest(self) -> tuple[RefusalView, ...]:
        return tuple(self._newest)

    def note(self, device: Device, topic: str, problem: str) -> None:
        """Count a message; whoever asks for credentials has no name yet, and is shown as that."""
        self.count += 1
        self._newest.append(
            RefusalView(
                device=device.name or PROVISION, topic=topic[:TOPIC_CHARS_MAX], problem=problem,
                at_ns=self._wall_ns(),
            )
        )  # fmt: skip


class Rejections:
    """Clients that were not let in: a count since the start, and a line of the log a minute."""

    def __init__(self, door: str) -> None:
        self.count = 0
        self._door = door
        self._seldom = Seldom()

    def note(self, address: str, problem: str) -> None:
        """Count one; `problem` says nothing that is secret."""
        self.count += 1
        if (again := self._seldom.ask(self._door)) is not None:
            log.warning(
                "%s: not let in: address=%s problem=%s; %d more before",
                self._door, address, problem, again,
            )  # fmt: skip
