"""What does a control message cost to write and to read?

It decides how small a batch may be: at 20 us for both directions together, a batch of 100 records
spends 0.2 us a record on its envelope.
"""

import zlib
from typing import ClassVar

from edgesync_transport.messages import Ack, Batch, Codec, Hello, Lane, LaneOffer, Message
from edgesync_transport.wire import decode, encode

INCARNATION = bytes(16)

MESSAGES: dict[str, Message] = {
    "hello": Hello(
        nonce=1,
        incarnation=INCARNATION,
        lanes=(LaneOffer(tail=9, trimmed=0),) * 3,
        clock_ns=1,
    ),
    "ack": Ack(epoch=1, incarnation=INCARNATION, lane=Lane.BULK, floor=9, safe=9),
    **{
        f"batch {size}": Batch(
            epoch=1,
            incarnation=INCARNATION,
            lane=Lane.BULK,
            first=1,
            last=1_000,
            prev_chain=1,
            last_chain=2,
            codec=Codec.COLUMNS,
            payload=bytes(size),
        )
        for size in (2_000, 64 * 1024, 512 * 1024)
    },
}


class Wire:
    params: ClassVar = list(MESSAGES)
    param_names: ClassVar = ["message"]

    def setup(self, name: str) -> None:
        self.message = MESSAGES[name]
        self.frames = encode(self.message)

    def time_encode(self, _: str) -> None:
        encode(self.message)

    def time_decode(self, _: str) -> None:
        decode(self.frames)

    def track_control_bytes(self, _: str) -> int:
        """A link that idles pays this for each acknowledgement."""
        return len(self.frames[0])


class Crc:
    """What the payload's CRC-32 adds: if it were slow, CURVE's own tag would have to do."""

    params: ClassVar = [2_000, 512 * 1024]
    param_names: ClassVar = ["bytes"]

    def setup(self, size: int) -> None:
        self.payload = bytes(size)

    def time_crc32(self, _: int) -> None:
        zlib.crc32(self.payload)
