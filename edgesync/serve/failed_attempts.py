"""Failed attempts at tokens and passwords, counted by name or network: guessing is bounded."""

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

KEYS_MAX: Final = 1000


class FailedAttempts:
    """Remembers the newest wrong attempts of each key, of the keys that failed last.

    most, window_s   so many within such a time are too many
    """

    def __init__(
        self, most: int, window_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._window_s = window_s
        self._clock = clock
        self._failed: OrderedDict[str, deque[tuple[float, bytes]]] = OrderedDict()

    def note(self, key: str, attempt: bytes = b"") -> bool:
        """Count one; return whether there were too many before it.

        attempt   digest of it: whoever tries the same once more within the time has tried once
        """
        is_too_often = self.wait_s(key) > 0
        now = self._clock()
        failed = self._failed.setdefault(key, deque(maxlen=self._most))
        begin = now - self._window_s
        if not (attempt and any(known == attempt and at > begin for at, known in failed)):
            failed.append((now, attempt))
        self._failed.move_to_end(key)
        while len(self._failed) > KEYS_MAX:
            self._failed.popitem(last=False)
        return is_too_often

    def wait_s(self, key: str) -> float:
        """Return how long it is until there were not too many any more; 0: that is so now."""
        failed = self._failed.get(key)
        if failed is None or len(failed) < self._most:
            return 0.0
        return max(0.0, failed[0][0] + self._window_s - self._clock())

    def forget(self, key: str) -> None:
        self._failed.pop(key, None)


def network_of(address: str) -> str:
    """Return what one peer can have many addresses of: /64 of IPv6, the address itself of IPv4."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return address
