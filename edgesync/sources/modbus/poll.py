"""One poll of a device: what is still to be asked, and what was answered.   [sans-IO]"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from msgspec import Struct

from edgesync.sources.modbus.planner import Block

# Answers of one poll that come within this time carry one time: a device that is asked over three
# requests in a few milliseconds gives values that belong together, and such records take less room.
SAME_TIME_NS: Final = 20_000_000
# Whole milliseconds: devices are not more exact.
MS_NS: Final = 1_000_000


class Answered(Struct, frozen=True):
    """A block's reply and the wall clock's time of its arrival."""

    block: Block
    data: bytes
    time_ns: int


class Poll:
    """The reads of groups that are due together and have one period.

    retries   reads of what was withheld
    factors   scale factors read so far; shared by the polls that began together
    """

    def __init__(
        self,
        groups: Collection[str],
        due_s: float,
        blocks: Iterable[Block],
        factors: dict[str, bytes],
    ) -> None:
        self.groups = groups
        self.due_s = due_s
        self.queue = deque(blocks)
        self.retries: deque[Block] = deque()
        self.factors = factors
        self._answers: list[Answered] = []
        self._time_ns = -SAME_TIME_NS

    @property
    def is_done(self) -> bool:
        return not self.queue and not self.retries

    @property
    def urgency(self) -> tuple[bool, float, float]:
        """The least goes first: fast groups before slow ones, retries after both."""
        if not self.queue:
            return True, 0.0, self.due_s
        return False, self.queue[0].period_s, self.due_s

    @property
    def has_answers(self) -> bool:
        return bool(self._answers)

    def drop(self) -> list[Block]:
        """Ask for nothing more; returns the blocks that are left out."""
        left = list(self.queue)
        self.queue.clear()
        self.retries.clear()
        return left

    def drop_extras(self, is_suspect: Callable[[Block], bool]) -> list[Block]:
        """Ask for nothing more that may be silent; returns the blocks that are left out."""
        left = [block for block in self.queue if is_suspect(block)]
        self.queue = deque(block for block in self.queue if not is_suspect(block))
        self.retries.clear()
        return left

    def take(self) -> tuple[Block, bool]:
        """Return the next block, and whether it is a retry of what was withheld."""
        if self.queue:
            return self.queue.popleft(), False
        return self.retries.popleft(), True

    def note(self, block: Block, data: bytes, time_ns: int) -> None:
        """Keep the reply to `block` that arrived at `time_ns`."""
        if not 0 <= time_ns - self._time_ns < SAME_TIME_NS:
            self._time_ns = time_ns // MS_NS * MS_NS
        self._answers.append(Answered(block, data, self._time_ns))
        if block.supplies:
            self.factors.update(block.factors(data))

    def is_worth_delivering(self, is_suspect: Callable[[Block], bool]) -> bool:
        """Tell whether what comes next would only delay what is here."""
        return bool(self._answers) and (not self.queue or is_suspect(self.queue[0]))

    def deliverable(self) -> Iterator[Answered]:
        """Yield, once, the replies that can be decoded now; all when the poll has ended."""
        kept: list[Answered] = []
        answers, self._answers = self._answers, kept
        for one in answers:
            if self.is_done or all(factor.name in self.factors for factor in one.block.far):
                yield one
            else:
                kept.append(one)
