"""A long line between two network namespaces: every packet of it is late, and some are lost.

The kernel's own TCP runs over it, on both sides; what carries the packets is a thread here, between
two TUN devices. One end is in this namespace, at HUB; programs are run at the other one with
EDGE_SIDE. As root.
"""

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Final

import msgspec

NAMESPACE: Final = "edgesync-line"
HUB, EDGE = "10.199.1.1", "10.199.1.2"
# What runs a program at the edge's side.
EDGE_SIDE: Final = ("ip", "netns", "exec", NAMESPACE)
NEAR, FAR = "esl0", "esl1"
TUNSETIFF: Final = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET_BYTES: Final = 65_536


class Long(msgspec.Struct, frozen=True):
    """rtt_s there and back; `loss` of packets each way; `congestion` control of both ends."""

    rtt_s: float
    loss: float = 0.0
    congestion: str = "cubic"

    def __str__(self) -> str:
        return f"{1e3 * self.rtt_s:.0f} ms, {self.loss:.0%} loss, {self.congestion}"


class Line:
    """Carries packets from one device to the other until it is closed; `nbytes` are all of them."""

    def __init__(self, line: Long) -> None:
        self.nbytes = 0
        self._line = line
        self._ends = [_open_tun(NEAR), _open_tun(FAR)]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_over = False

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._is_over = True
        if self._thread.is_alive():
            self._thread.join()
        for end in self._ends:
            os.close(end)

    def _run(self) -> None:
        chance = Random(1)
        late: deque[tuple[float, int, bytes]] = deque()
        near, far = self._ends
        other = {near: far, far: near}
        while not self._is_over:
            wait_s = min(0.1, max(0.0, late[0][0] - time.monotonic())) if late else 0.1
            for end in select.select(self._ends, [], [], wait_s)[0]:
                packet = os.read(end, PACKET_BYTES)
                self.nbytes += len(packet)
                if chance.random() >= self._line.loss:
                    late.append((time.monotonic() + self._line.rtt_s / 2, other[end], packet))
            now = time.monotonic()
            while late and late[0][0] <= now:
                _, to, packet = late.popleft()
                with contextlib.suppress(OSError):  # an end that is not up yet
                    os.write(to, packet)


def _open_tun(name: str) -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def route(to: str, device: str, line: Long) -> list[str]:
    """Return how `ip` says by whose rules packets go out; the machine's own stay as they are."""
    return ["route", "replace", f"{to}/32", "dev", device, "congctl", line.congestion]


@contextlib.contextmanager
def open_line(line: Long) -> Iterator[Line]:
    """Make both ends and the line between; they go with the block."""
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, ["ip", "netns", "del", NAMESPACE], check=True)
        carried = Line(line)
        stack.callback(carried.close)
        for words in (
            ["addr", "add", f"{HUB}/30", "dev", NEAR],
            ["link", "set", NEAR, "up"],
            route(EDGE, NEAR, line),
            ["link", "set", FAR, "netns", NAMESPACE],
            ["-n", NAMESPACE, "addr", "add", f"{EDGE}/30", "dev", FAR],
            ["-n", NAMESPACE, "link", "set", FAR, "up"],
            ["-n", NAMESPACE, "link", "set", "lo", "up"],
            ["-n", NAMESPACE, *route(HUB, FAR, line)],
        ):
            subprocess.run(["ip", *words], check=True)
        carried.start()
        yield carried
