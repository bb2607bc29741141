"""SIGTERM and SIGINT as an event, for the daemons."""

import logging
import signal
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
