"""A bundle: chains and device profiles that a hub keeps under one name, in versions.   [sans-IO]

It holds exports as they came. Its digest is of what it says and not of how that was packed: equal
digests mean that an edge has what the hub means.
"""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from edgesync.errors import RecordError
from edgesync.rules.model import FILE_BYTES_MAX

# What an edge may be sent (I7). The largest public chain has 86 kB.
FILES_MAX: Final = 200
BYTES_MAX: Final = 2 * FILE_BYTES_MAX
PACKED_BYTES_MAX: Final = 512 * 1024


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """root: the chain that messages begin in; files: exports by their name, as text."""

    name: str
    version: int
    root: str = ""
    files: Mapping[str, str]

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"

    def digest(self) -> str:
        """Return 64 hex digits that no other bundle or version has."""
        return hashlib.sha256(self._encoded()).hexdigest()

    def pack(self) -> bytes:
        return zlib.compress(self._encoded(), 9)

    def contents(self) -> dict[str, bytes]:
        return {name: text.encode() for name, text in self.files.items()}

    def _encoded(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")


def unpack(raw: bytes) -> Bundle:
    """Return a packed bundle; raises RecordError. What it unpacks to is bounded."""
    reader = zlib.decompressobj()
    try:
        # JSON may write a character as six.
        text = reader.decompress(raw, 6 * BYTES_MAX)
        if not reader.eof:
            raise RecordError(f"a bundle of more than {6 * BYTES_MAX} bytes, or cut short")
        return msgspec.json.decode(text, type=Bundle)
    except (zlib.error, msgspec.DecodeError, RecursionError) as error:
        raise RecordError(f"no bundle of rule chains: {error}") from error


# A record for an edge has 60 KiB at most.
PIECE_BYTES: Final = 48 * 1024
PIECES_MAX: Final = -(-PACKED_BYTES_MAX // PIECE_BYTES)


class BundlePiece(msgspec.Struct, frozen=True, array_like=True):
    """Part `nth` of `count` of the bundle with a digest; an empty digest with no parts is none."""

    digest: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
    nth: Annotated[int, msgspec.Meta(ge=0, lt=PIECES_MAX)] = 0
    count: Annotated[int, msgspec.Meta(ge=0, le=PIECES_MAX)] = 0
    data: Annotated[bytes, msgspec.Meta(max_length=PIECE_BYTES)] = b""

    @property
    def is_last(self) -> bool:
        return self.nth + 1 >= self.count


def pieces_of(bundle: Bundle | None) -> list[bytes]:
    """Return a bundle as records carry it, in order; of None, that there is to be none."""
    if bundle is None:
        return [msgspec.msgpack.encode(BundlePiece(""))]
    raw, digest = bundle.pack(), bundle.digest()
    parts = [raw[at : at + PIECE_BYTES] for at in range(0, len(raw), PIECE_BYTES)]
    return [
        msgspec.msgpack.encode(BundlePiece(digest, nth, len(parts), part))
        for nth, part in enumerate(parts)
    ]


def parse_piece(raw: bytes) -> BundlePiece:
    """Return what a record carries; raises RecordError."""
    try:
        found = msgspec.msgpack.decode(raw, type=BundlePiece)
    except msgspec.DecodeError as error:
        raise RecordError(f"no part of a bundle of rule chains: {error}") from error
    if (found.digest and found.nth >= found.count) or (found.count and not found.digest):
        raise RecordError(f"part {found.nth} of {found.count} of a bundle of rule chains")
    return found
