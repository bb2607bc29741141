"""Stopping a statement that takes too long, or that nobody waits for any more."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa

# Instructions of SQLite's machine between two looks: about 0.1 ms.
STEPS_BETWEEN_CHECKS: Final = 20_000


@contextmanager
def stopping_when(connection: sa.Connection, is_over: Callable[[], bool] | None) -> Iterator[None]:
    """Stop the statements of `connection` once `is_over`, which is asked again and again.

    What is stopped raises an error of which `faults.fault_of` says STOPPED.
    """
    raw: Any = connection.connection.dbapi_connection
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        raw.set_progress_handler(is_over, STEPS_BETWEEN_CHECKS)
    else:
        raw.is_over = is_over
    try:
        yield
    finally:
        if is_sqlite:
            raw.set_progress_handler(None, 0)
        else:
            raw.is_over = None
