"""One TCP connection in a tunnel: how much may be under way, and what has come.        [sans-IO]

Both ends are alike, and in each direction

    there <= sent <= there + the connection's share of WINDOW_BYTES

    sent    bytes handed to the link
    there   of them, those that the other end has handed on

So a target that does not read stops whoever writes to it, and what waits for it has a bound, here
and on the link: batches and heartbeats never wait behind more than that (I7). A message that the
link has lost ends the connection, for nothing is sent twice; the offsets tell.
"""

from collections import deque
from typing import Final

from edgesync_transport.messages import TunnelCode, TunnelData
from edgesync_transport.tunnel.pace import Pace, Sent

# Of one message: what an urgent one waits for while it is written, 8 ms at 1 MB/s.
FRAME_BYTES: Final = 8 * 1024
# Under way in one direction of a tunnel, as long as none of its connections has SHARE_LEAST alone.
WINDOW_BYTES: Final = 64 * 1024
SHARE_LEAST: Final = 8 * 1024
# Messages of a connection under way: single characters fill a window of messages, not of bytes.
FRAMES_MAX: Final = 8
# What was handed on is told after so much of it, sooner than any sender runs out of room.
TELL_BYTES: Final = SHARE_LEAST // 2
TELL_FRAMES: Final = FRAMES_MAX // 2


class StreamFault(Exception):
    """The connection cannot go on; `code` and the text say why."""

    def __init__(self, code: TunnelCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Stream:
    """See the module.

    received, taken   bytes that came; of them, those handed on. `buffer` is what lies between
    is_sent           the end of this direction has been sent; `is_received`: that of the other came
    is_handed_on      the other's end has been handed on as well
    moved_at          when something was last sent or came
    pace              of its tunnel, which what it sends counts for
    """

    def __init__(
        self, epoch: int, tunnel: int, number: int, now: float, pace: Pace | None = None
    ) -> None:
        self.epoch = epoch
        self.tunnel = tunnel
        self.number = number
        self.pace = pace or Pace()
        self.sent = 0
        self.there = 0
        self.received = 0
        self.taken = 0
        self.buffer = bytearray()
        self.is_sent = False
        self.is_received = False
        self.is_handed_on = False
        self.moved_at = now
        self._frames = deque[tuple[int, Sent]]()  # messages under way, and the offsets behind them
        self._told = 0
        self._untold_frames = deque[int]()  # the offsets behind messages not told as taken

    @property
    def is_over(self) -> bool:
        return self.is_sent and self.is_handed_on

    def room(self, share: int) -> int:
        """Return how many bytes may be sent now."""
        if self.is_sent or len(self._frames) >= FRAMES_MAX:
            return 0
        return max(0, min(FRAME_BYTES, share - (self.sent - self.there)))

    def send(self, data: bytes, now: float) -> TunnelData:
        """Return the message for `data`, at most `room` bytes; none of it is the end."""
        assert not self.is_sent
        assert len(data) <= FRAME_BYTES
        message = self.message(data, is_end=not data)
        self.sent += len(data)
        self.moved_at = now
        if data:
            self._frames.append((self.sent, self.pace.send(len(data), now)))
        else:
            self.is_sent = True
        return message

    def message(self, data: bytes = b"", *, is_end: bool = False) -> TunnelData:
        """Return a message that says what was taken, too; without data it says only that."""
        self._told = self.taken
        while self._untold_frames and self._untold_frames[0] <= self._told:
            self._untold_frames.popleft()
        return TunnelData(
            epoch=self.epoch, tunnel=self.tunnel, stream=self.number, offset=self.sent,
            taken=self.taken, is_end=is_end, payload=data,
        )  # fmt: skip

    def receive(self, message: TunnelData, now: float) -> None:
        """Take what the other end sent; raises StreamFault."""
        self._note_taken(message.taken, now)
        if message.offset < self.received:
            return  # it came before
        if message.offset > self.received:
            raise StreamFault(TunnelCode.LOST, "the link lost a part of the connection")
        if not message.payload and not message.is_end:
            return
        if self.is_received:
            raise StreamFault(TunnelCode.LOST, "the other end goes on after its end")
        is_more = len(self._untold_frames) >= FRAMES_MAX and message.payload
        if is_more or len(self.buffer) + len(message.payload) > WINDOW_BYTES:
            raise StreamFault(TunnelCode.LOST, "the other end sends more than it may")
        self.moved_at = now
        self.received += len(message.payload)
        self.buffer += message.payload
        if message.payload:
            self._untold_frames.append(self.received)
        self.is_received = message.is_end

    def _note_taken(self, taken: int, now: float) -> None:
        if taken > self.sent:
            raise StreamFault(TunnelCode.LOST, "the other end takes what was not sent")
        self.there = max(self.there, taken)
        while self._frames and self._frames[0][0] <= self.there:
            self.pace.take(self._frames.popleft()[1], now)

    def take(self, count: int, now: float) -> TunnelData | None:
        """Note that the first `count` bytes of the buffer were handed on.

        Returns what tells the other end so, when that is due.
        """
        assert count <= len(self.buffer)
        del self.buffer[:count]
        self.taken += count
        self.moved_at = now
        is_due = self.taken - self._told >= TELL_BYTES or len(self._untold_frames) >= TELL_FRAMES
        return self.message() if is_due else None

    def hand_on_end(self) -> None:
        """Note that the other direction's end was handed on."""
        assert self.is_received
        assert not self.buffer
        self.is_handed_on = True
