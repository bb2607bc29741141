"""An empty state in memory, to find out whose fault a failure is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hubd.state import tables
from hubd.state.fresh import AFTER, OPTION, Fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hubd.project.base import Projector
    from hubd.project.feed import Part

log = logging.getLogger(__name__)


def takes(projector: Projector, parts: Sequence[Part]) -> bool:
    """Return whether an empty state takes `parts`; it is thrown away again."""
    engine = sa.create_engine("sqlite://")
    try:
        tables.metadata.create_all(engine)
        then: list[Callable[[], None]] = []
        with engine.connect().execution_options(**{OPTION: Fresh(), AFTER: then}) as connection:
            projector.apply(connection, parts)
            for follow_up in then:
                follow_up()
    except Exception:
        log.debug("an empty state does not take it either", exc_info=True)
        return False
    finally:
        engine.dispose()
    return True
