"""What a `Write` leaves in a journal: it tells nobody before."""

from edgesync._native import batch
from edgesync._native.write import Write
from edgesync.model import Lane
from edgesync.store.journal import EdgeStore


def bodies(store: EdgeStore, write: Write) -> list[bytes]:
    """Carry a write out, and return the bodies of its records of the bulk lane."""
    tail = store.state(Lane.BULK).tail
    if not write.appends[Lane.BULK]:
        return []
    store.submit_sync(write)
    return [one.body for one in batch.records(store.read(Lane.BULK, tail + 1).data)]
