"""Who is restarted and who ends the process: what we do not understand, we do not retry."""

import logging
from random import Random

import trio

from edgesync.errors import SourceError, StoreFull
from edgesync.sources.base import Sink, Source
from edgesync_transport.backoff import Backoff, BackoffSettings

log = logging.getLogger(__name__)

RESTART = BackoffSettings(base_s=1.0, cap_s=60.0)


async def keep_running(source: Source, sink: Sink, random: Random) -> None:
    """Run `source` until it returns; after an error we know, wait and run it again.

    A full store passes when the hub acknowledges or the disk is emptied. Any other error ends the
    nursery, and with it the process: the service manager starts a clean one.
    """
    backoff = Backoff(RESTART, random)
    while True:
        started_at = trio.current_time()
        try:
            return await source.run(sink)
        except* (SourceError, StoreFull) as failed:
            if trio.current_time() - started_at > RESTART.cap_s:
                backoff.reset()
            delay_s = backoff.next_s()
            problem = failed.exceptions[0]
            log.warning("source %s: %s; again in %.1f s", source.name, problem, delay_s)
        await trio.sleep(delay_s)
