"""Recovery at a start: the entries taken from the write-ahead log, and a log line on the rest.

A file that is gone, damaged, cut short, or of another state of the store than `data.mdb`, is read
as far as nothing is missing. What was lost by that was told to nobody else: operations that the hub
may have are in LMDB, with the record that tells of them (I2).
"""

import logging
from pathlib import Path
from typing import Final

from edgesync._native.wal import replay, unread
from edgesync.store.directory import explained

log = logging.getLogger(__name__)

# See native/keyspace.pyx, and `EdgeKeys.save_counters`.
COUNTERS_ROW: Final = b"a"
COUNTERS: Final = ("r", "n", "sent", "kids", "keys", "pending", "clock", "life")


def replayed(
    path: Path, lap: bytes, counters: bytes, *, nbytes: int, lost_s: float
) -> dict[bytes, bytes | None]:
    """Return the rows that only the write-ahead log has; raises StoreUnwritable.

    lap, counters   as LMDB has them
    nbytes          what the file should have
    lost_s          of so many seconds before the last end what was written may be in it alone
    """
    if not path.exists():
        log.error(
            "keys: %s is missing: what was written in the %g s before the last end may be, too",
            path, lost_s,
        )  # fmt: skip
        return {}
    with explained(path):
        data = path.read_bytes()
    if len(data) < nbytes:
        log.error(
            "keys: %s has %d bytes instead of %d: what was written in the %g s before the last "
            "end may be missing", path, len(data), nbytes, lost_s,
        )  # fmt: skip
    rows = replay(data, lap)
    begun = _counted(rows.get(COUNTERS_ROW) or counters)
    for at, other, count, passed in unread(data, lap):
        if not other:
            _tell_damage(path, at, count, is_read=bool(rows), lost_s=lost_s)
        elif _is_foreign(_counted(passed.get(COUNTERS_ROW) or b""), begun):
            log.error(
                "keys: %s and data.mdb are not of one state of this store: %d entries at byte %d "
                "of the log are ignored; what was written in the %g s before the last end may be "
                "missing", path, count, at, lost_s,
            )  # fmt: skip
    return rows


def _tell_damage(path: Path, at: int, count: int, *, is_read: bool, lost_s: float) -> None:
    if count:
        log.error(
            "keys: %s is damaged at byte %d: %d later entries that are whole are ignored, what "
            "was written in them is lost", path, at, count,
        )  # fmt: skip
    elif is_read:
        log.warning(
            "keys: %s ends at byte %d with an entry that was cut off by the last end, or is "
            "damaged; it is ignored", path, at,
        )  # fmt: skip
    else:
        log.error(
            "keys: %s is damaged at byte %d, where its first entry would be: what was written in "
            "the %g s before the last end may be missing", path, at, lost_s,
        )  # fmt: skip


def _counted(raw: bytes) -> dict[str, int]:
    numbers = (int.from_bytes(raw[at : at + 8], "big") for at in range(0, len(raw), 8))
    return dict(zip(COUNTERS, numbers, strict=False))


def _is_foreign(theirs: dict[str, int], ours: dict[str, int]) -> bool:
    """Return whether entries belong to a later state or another store, not just to an older one."""
    if not theirs or not ours:
        return bool(theirs)
    is_later = theirs["n"] > ours["n"] or theirs["life"] > ours["life"]
    return is_later or (theirs["life"] == ours["life"] and theirs["r"] != ours["r"])
