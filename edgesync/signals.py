"""What the daemons say to the service manager, and hear from it: SIGTERM and SIGINT as an event."""

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

log = logging.getLogger(__name__)


@asynccontextmanager
async def stopping_on_signals(stop: trio.Event) -> AsyncIterator[None]:
    """Set `stop` when the process is asked to end, as long as the block runs."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on, signals, stop)
            yield
            nursery.cancel_scope.cancel()


async def _stop_on(signals: AsyncIterator[int], stop: trio.Event) -> None:
    async for number in signals:
        log.info("stopping on %s", signal.Signals(number).name)
        stop.set()


def notify(*lines: str) -> None:
    """Send to systemd's socket (sd_notify(3)); nothing when there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
        try:
            sending.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("service manager not told: %s", error)
