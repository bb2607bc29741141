"""LZ4 for values, where it helps."""

def pack(value: bytes) -> bytes:
    """Return `value` marked raw, or compressed when it is >= 64 bytes and >= 8 % smaller."""

def unpack(data: bytes, *, limit_bytes: int = 4 << 20) -> bytes:
    """Undo `pack`; raises RecordError on bad input or when the result would pass the limit."""
