"""Wrong tokens, passwords and secrets at a door for devices: guessing is bounded, by network.

Many devices may stand behind one address. So the same wrong attempt counts once, and what was let
in from there before is let in while others guess: only who is new there waits.
"""

import hashlib
import logging
from collections import OrderedDict
from typing import Final

import trio

from edgesync.serve.failed_attempts import FailedAttempts, network_of
from edgesync_transport.seldom import Seldom

log = logging.getLogger(__name__)

WINDOW_S: Final = 60.0
# Of what was right, and where; digests, in memory alone.
RIGHT_MAX: Final = 20_000


class Guesses:
    """So many different wrong attempts of a network within a minute are too many.

    what     is guessed, for the log
    refused  attempts that were not looked at, since the start
    """

    def __init__(self, most: int, what: str) -> None:
        self.refused = 0
        self._what = what
        self._failed = FailedAttempts(most, WINDOW_S, trio.current_time)
        self._right: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._seldom = Seldom()

    def wait_s(self, address: str, shown: bytes) -> float:
        """Return how long `shown` is not to be looked at, in seconds; 0: it may be now."""
        network = network_of(address)
        wait_s = self._failed.wait_s(network)
        if wait_s <= 0 or (network, _digest(shown)) in self._right:
            return 0.0
        self.refused += 1
        if (again := self._seldom.ask(network)) is not None:
            log.warning("too many wrong %s from %s; %d more before", self._what, address, again)
        return wait_s

    def wrong(self, address: str, shown: bytes) -> None:
        self._failed.note(network_of(address), _digest(shown))

    def right(self, address: str, shown: bytes) -> None:
        one = network_of(address), _digest(shown)
        self._right[one] = None
        self._right.move_to_end(one)
        if len(self._right) > RIGHT_MAX:
            self._right.popitem(last=False)


def _digest(shown: bytes) -> bytes:
    return hashlib.sha256(shown).digest()
