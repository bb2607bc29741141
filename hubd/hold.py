"""One hub for a folder, and one for a database: a second is told who has it.

Either goes with the process that holds it, however that dies: the kernel drops a lock of a file,
PostgreSQL that of the connection.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
import trio

from hubd.db.engine import shown
from hubd.db.hold import Holder, SchemaHold, this_process
from hubd.errors import HubHeld, OwnedUnusable
from hubd.owned.database import SCHEMA, translated

log = logging.getLogger(__name__)

LOCK: Final = "hub.lock"
# How long a database is waited for that another hub has: it may just have been killed.
HELD_S: Final = 5.0
AGAIN_S: Final = 0.1


@contextmanager
def holding_folder(folder: Path) -> Iterator[None]:
    """Have a hub's folder for oneself; raises HubHeld."""
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    with open(fd, "r+b") as file:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HubHeld(str(folder), _read_holder(file.read())) from None
        file.write(msgspec.json.encode(this_process()))
        file.truncate()
        file.flush()
        yield


def _read_holder(text: bytes) -> Holder | None:
    try:
        return msgspec.json.decode(text, type=Holder)
    except msgspec.DecodeError:
        return None  # it has only just begun


class DatabaseHold:
    """Keeps the database of a hub for this process; one in the hub's folder is kept with that.

    Calls are synchronous, from one thread at a time.
    """

    def __init__(self, url: sa.URL | None) -> None:
        self._name = "" if url is None else shown(url)
        self._hold = None if url is None else SchemaHold(url, SCHEMA)

    def take(self) -> None:
        """Take it, or see that it is still ours; raises HubHeld, and OwnedUnusable for now."""
        if self._hold is None:
            return
        with translated(self._name):
            holder = self._hold.take()
        if holder is not None:
            raise HubHeld(self._name, holder)

    async def begin(self) -> None:
        """Take it, as soon as a hub that was just killed lets it go; raises HubHeld after a while.

        While the database is away nobody can have it: `take` is to be called again and again.
        """
        ends_at = trio.current_time() + HELD_S
        while True:
            try:
                await trio.to_thread.run_sync(self.take)
                return
            except OwnedUnusable as error:
                log.warning("not held yet: %s", error)
                return
            except HubHeld:
                if trio.current_time() > ends_at:
                    raise
            await trio.sleep(AGAIN_S)

    def close(self) -> None:
        if self._hold is not None:
            self._hold.close()
