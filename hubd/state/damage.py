"""Which errors say that the state is rotten, and not that a disk refuses or data is bad."""

from hubd.db.faults import Fault, fault_of


class StateDamaged(Exception):
    """The state does not hold what was written to it. No entry of the log is to blame."""


def is_damage(error: BaseException) -> bool:
    """Return whether `error` says that the tables are rotten or gone: they are to be made again."""
    return isinstance(error, StateDamaged) or fault_of(error) is Fault.DAMAGED
