"""The Cap'n Proto `Event` record by hand, both directions, total on hostile input."""

def encode(
    type: int,
    action: int,
    entity_type: int,
    entity_id: str,
    body: bytes,
    time_ns: int,
    created_ns: int,
    hlc: int,
) -> bytes:
    """Return the framed message; raises RecordError beyond 64 MiB, OverflowError past a field."""

def decode(data: bytes) -> tuple[int, int, int, str, bytes, int, int, int]:
    """Return the fields in the order `encode` takes them; raises RecordError."""
