"""A connection to PostgreSQL whose statements can be stopped, as SQLite's can."""

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any, Final

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus

CHECK_S: Final = 0.05
# How long the server may take to give up a statement before its connection is given up.
GRACE_S: Final = 2.0


class Stopped(psycopg.OperationalError):
    """The statement was stopped; the connection, whose server does not answer, is of no use."""


class StoppableConnection(psycopg.Connection[Any]):
    """`is_over` is asked every CHECK_S while the server works: once it is true, it is to stop.

    That is psycopg.errors.QueryCanceled; or Stopped, from a server that is silent.
    """

    is_over: Callable[[], bool] | None = None

    def wait(self, gen: PQGen[RV], interval: float = CHECK_S, timeout: float | None = None) -> RV:
        if self.is_over is None:
            return super().wait(gen, interval, timeout)
        return super().wait(self._watched(gen, self.is_over), CHECK_S, timeout)

    def _watched(self, gen: PQGen[RV], is_over: Callable[[], bool]) -> Generator[Any, Any, RV]:
        """Do as `gen` does, and ask after each turn of the loop."""
        ends_at = None
        try:
            ready = yield next(gen)
            while True:
                if ends_at is None and is_over():
                    ends_at = time.monotonic() + GRACE_S
                    self._ask_to_stop()
                elif ends_at is not None and time.monotonic() > ends_at:
                    self.close()
                    raise Stopped("stopped; the server does not answer")
                ready = yield gen.send(ready)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _ask_to_stop(self) -> None:
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            # Of a server that is silent the grace ends.
            with contextlib.suppress(psycopg.Error):
                self.cancel_safe(timeout=GRACE_S)
