"""A site whose line holds for thirty seconds and is gone for ten, for as long as it takes.

What such a line does to those who begin anew each time: a batch that was half on its way is sent
again and again, attempts pile up, and the queue never gets shorter. In virtual time.
"""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from edgesync_transport.lanes.window import SenderSettings
from edgesync_transport.messages import Batch, Hello, Lane, Message
from edgesync_transport.receiver import ReceiverSettings
from tests.sim import world
from tests.sim.world import Weather, World

pytestmark = pytest.mark.feature("S3", "S4", "S26")

UP_S, DOWN_S = 30.0, 10.0
BACKLOG = 5_000
TROUBLE_S = 200.0
EVERY_S = 0.5
CALM = Weather(
    partition_every_s=0.0, edge_crash_every_s=0.0, hub_crash_every_s=0.0, clock_step_every_s=0.0,
    poison=0.0,
)  # fmt: skip


class FlappingSite(World):
    """Counts what is sent; `waiting` is the backlog at the end of each stretch of the line.

    A lost packet is sent again by TCP: what comes after it waits that long.
    """

    def __init__(self, seed: int, *, delay_s: float, loss: float) -> None:
        self.sent: Counter[type[Message]] = Counter()
        self.records_sent = 0
        self.delay_s, self.loss = delay_s, loss
        self.waiting: list[int] = []
        self._line = 0  # which stretch of it
        self._arrives = [0.0, 0.0]
        super().__init__(seed, weather=CALM, records=0, downlink=False)
        for _ in range(BACKLOG):
            self.edges[0].append(Lane.BULK)
        self.at(UP_S, self._drop)
        self.at(EVERY_S, self._another)

    @property
    def pending(self) -> int:
        lane = self.edges[0].journal.lanes[Lane.BULK]
        return lane.tail - lane.floor

    def _drop(self) -> None:
        if self.now > TROUBLE_S:
            return
        self.waiting.append(self.pending)
        self.partition = (True, True)
        self._line += 1
        self._arrives = [0.0, 0.0]
        self.edges[0]._hang_up(0.0)
        self.at(DOWN_S, self._come_back)

    def _come_back(self) -> None:
        self.partition = (False, False)
        self.at(UP_S, self._drop)

    def _another(self) -> None:
        if self.now < TROUBLE_S:
            self.edges[0].append(Lane.BULK)
            self.at(EVERY_S, self._another)

    def carry(self, message: Message, deliver: Callable[[Message], None], *, is_up: bool) -> None:
        """Deliver in order and late, or not at all when the line is gone before."""
        self.sent[type(message)] += 1
        if isinstance(message, Batch):
            self.records_sent += message.last - message.first + 1
        if any(self.partition):
            return
        spike_s = self.random.uniform(1.0, 3.0) if self.random.random() < self.loss else 0.0
        arrives = max(self._arrives[is_up], self.now + self.delay_s + spike_s)
        self._arrives[is_up] = arrives
        line = self._line
        self.at(arrives - self.now, lambda: deliver(message) if line == self._line else None)


@pytest.mark.parametrize(("seed", "loss"), [(1, 0.02), (2, 0.05)])
def test_a_backlog_is_drained_over_a_line_that_flaps(seed: int, loss: float) -> None:
    site = FlappingSite(seed, delay_s=0.3, loss=loss)
    site._turn_until(TROUBLE_S, lambda: False)
    for before, after in pairwise((BACKLOG, *site.waiting)):
        assert after < 100 or after < before - 200, f"seed {seed}: {site.waiting}"
    site._turn_until(TROUBLE_S + 120.0, lambda: site.edges[0].is_delivered())
    site.check_log()
    assert len(site.held(site.hub.log.stored)) == site.contents
    # Little is sent twice, and no attempts pile up while nobody answers.
    assert site.records_sent < 1.2 * site.contents
    assert site.sent[Hello] < 10 * len(site.waiting)


def test_without_a_flap_a_long_way_costs_no_more_than_its_round_trips(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By satellite, 0.6 s there and back, as an edge is set when nobody sets anything."""
    monkeypatch.setattr(world, "SENDER", SenderSettings())
    monkeypatch.setattr(world, "RECEIVER", ReceiverSettings())
    site = FlappingSite(3, delay_s=0.3, loss=0.0)
    site._turn_until(UP_S - 1, lambda: site.pending < 10)
    assert site.pending < 10
    assert site.now < 12 * 0.6
