"""A world from a seed: edges, a hub, a bad network and bad luck, in virtual time.

Both directions are at work all the time: an edge tells its readings, the hub its calls.

The cores are the real ones: Sender, Receiver, Book. Around them is the least that carries out what
they decide. One heap of events, one Random: the same seed gives the same trace, to the letter.
"""

import heapq
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from random import Random

import msgspec

from edgesync._native import batch
from edgesync_transport import receiver as hub_core
from edgesync_transport import sender as edge_core
from edgesync_transport.lanes.events import DownFloors
from edgesync_transport.lanes.window import SenderSettings
from edgesync_transport.link import Peer
from edgesync_transport.memory import Weather as LinkWeather
from edgesync_transport.messages import Batch, Codec, Lane, Limits, Message, NackCode
from edgesync_transport.receiver import Receiver, ReceiverSettings
from edgesync_transport.sender import Sender
from hubd.log.base import Append, Appended
from hubd.log.book import EPOCHS_SKIPPED, Book, Changes
from tests.sim.disks import POISON, Record, SimJournal, SimLog, Stored, contents_in, rows_of
from tests.sim.downlink import SimDownlink

NAME = "barn"
SLOW = "slow down"

SENDER = SenderSettings(
    batch_records_min=1,
    batch_records_max=16,
    window_batches=(2, 3, 4),
    linger_s=(0.0, 0.002, 0.02),
    ack_timeout_s=3.0,
    greeting_timeout_s=2.0,
    heartbeat_s=1.0,
)
RECEIVER = ReceiverSettings(
    limits=Limits(batch_records=16, window_batches=8), heartbeat_s=1.0, holdoff_s=2.0,
    downlink=SenderSettings(
        batch_records_min=1, batch_records_max=4, window_batches=(2, 2, 2),
        linger_s=(0.0, 0.0, 0.0), ack_timeout_s=3.0,
    ),
)  # fmt: skip


class Rules(msgspec.Struct, frozen=True):
    """What the world is made of; a mutant replaces one part by a weaker one."""

    sender: type[Sender] = Sender
    receiver: type[Receiver] = Receiver
    book: type[Book] = Book
    trims_at_ack: bool = False
    acks_early: bool = False
    fork_keeps_name: bool = False
    fork_renames_records: bool = False
    # Of the second direction.
    down_two_steps: bool = False  # the floor first, then the effect
    down_keeps_acked: bool = False  # what was acknowledged is sent again after a restore
    down_no_ids: bool = False  # what takes effect does not know doubles
    down_greets_early: bool = False  # while a batch of an older session is being stored


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """How bad it gets: the link, and mean seconds between events (0: never)."""

    link: LinkWeather = LinkWeather(loss=0.1, double=0.1, delay_s=0.05)
    partition_every_s: float = 8.0
    edge_crash_every_s: float = 12.0
    hub_crash_every_s: float = 12.0
    edge_restore_every_s: float = 0.0
    hub_restore_every_s: float = 0.0
    clone_at_s: float = 0.0
    clock_step_every_s: float = 10.0
    backup_every_s: float = 0.0
    poison: float = 0.01
    slow: float = 0.0  # of batches: answered with a pause, or refused for a while

    @property
    def has_backups(self) -> bool:
        return self.backup_every_s > 0


def weather_of(random: Random) -> Weather:
    """Draw a climate: mild or wild, with or without restores."""
    restores = random.random()
    with_backups = restores < 0.6
    return Weather(
        link=LinkWeather(
            loss=random.choice((0.0, 0.05, 0.3)),
            double=random.choice((0.0, 0.1, 0.4)),
            delay_s=random.choice((0.001, 0.05, 0.5)),
        ),
        partition_every_s=random.choice((0.0, 5.0)),
        edge_crash_every_s=random.choice((0.0, 4.0, 12.0)),
        hub_crash_every_s=random.choice((0.0, 4.0, 12.0)),
        edge_restore_every_s=random.choice((0.0, 8.0)),
        hub_restore_every_s=random.choice((0.0, 8.0)) if with_backups else 0.0,
        clone_at_s=random.choice((0.0, 0.0, 6.0)),
        backup_every_s=random.choice((1.0, 4.0)) if with_backups else 0.0,
        poison=random.choice((0.0, 0.02)),
    )


class World:
    """Runs until `calm_at`, heals, and must then come to rest with everything delivered.

    downlink   whether the hub tells its edges something, too, all the time
    """

    def __init__(
        self,
        seed: int,
        *,
        weather: Weather | None = None,
        rules: Rules | None = None,
        trouble_s: float = 20.0,
        records: int = 120,
        downlink: bool = True,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.whims = Random(~seed)  # of a hub that slows its edges down
        self.weather = weather or weather_of(self.random)
        self.link = self.weather.link
        self.rules = rules or Rules()
        self.has_downlink = downlink
        self.now = 0.0
        self.is_calm = False
        self.trouble_s = trouble_s
        self.trace = sha256()
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.contents = 0
        # content -> (edge, lane, order) of every append an edge was told is stored
        self.accepted: dict[int, tuple[int, Lane, int]] = {}
        self.destroyed: set[int] = set()  # on a disk that was replaced by an older image
        self.dead: set[int] = set()
        self.partition = (False, False)
        # Of the second direction: what the hub was told is stored, what a restore took from it, and
        # how often each took effect in the world, whatever became of the disk that noted it.
        self.told: dict[int, tuple[Lane, int]] = {}
        self.untold: set[int] = set()
        self.in_doubt: set[int] = set()
        self.happened: Counter[tuple[int, int]] = Counter()
        self.hub = HubSim(self)
        self.edges: list[EdgeSim] = []
        self.edges.append(EdgeSim(self, SimJournal(self.bytes16())))
        self._records_left = records
        self._schedule_trouble()

    # -- machinery -------------------------------------------------------------------------------

    def bytes16(self) -> bytes:
        return self.random.randbytes(16)

    def at(self, delay_s: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, do))

    def note(self, what: str) -> None:
        self.trace.update(f"{self.now:.6f} {what}\n".encode())

    def wall_ns(self) -> int:
        return int((1_700_000_000 + self.now) * 1e9)

    def run(self) -> str:
        """Run to the end; returns the digest of everything that happened."""
        self._turn_until(self.trouble_s, lambda: False)
        self._calm_down()
        self._turn_until(self.trouble_s + 240.0, self.is_at_rest)
        assert self.is_at_rest(), f"seed {self.seed}: {self._why_not_at_rest()}"
        self.check_end()
        return self.trace.hexdigest()

    def _turn_until(self, end: float, is_done: Callable[[], bool]) -> None:
        while self._heap and self._heap[0][0] <= end and not is_done():
            self.now, _, do = heapq.heappop(self._heap)
            self.steps += 1
            do()

    # -- trouble ---------------------------------------------------------------------------------

    def _schedule_trouble(self) -> None:
        weather = self.weather
        self.at(0.0, self._produce)
        for mean_s, do in (
            (weather.partition_every_s, self._part),
            (weather.edge_crash_every_s, lambda: self._any_edge().crash()),
            (weather.hub_crash_every_s, self.hub.crash),
            (weather.edge_restore_every_s, lambda: self._any_edge().restore()),
            (weather.hub_restore_every_s, self.hub.restore),
            (weather.clock_step_every_s, lambda: self._any_edge().step_clock()),
            (weather.backup_every_s, self.hub.take_backup),
        ):
            if mean_s:
                self._repeat(mean_s, do)
        if weather.clone_at_s:
            self.at(weather.clone_at_s, self._clone)

    def _repeat(self, mean_s: float, do: Callable[[], None]) -> None:
        def happen() -> None:
            if self.is_calm and do != self.hub.take_backup:
                return
            do()
            self.at(self.random.expovariate(1 / mean_s), happen)

        self.at(self.random.expovariate(1 / mean_s), happen)

    def _any_edge(self) -> "EdgeSim":
        return self.random.choice(self.edges)

    def _clone(self) -> None:
        if not self.is_calm:
            original = self.edges[0]
            self.note("clone")
            self.edges.append(EdgeSim(self, original.journal.image()))

    def _part(self) -> None:
        self.partition = (self.random.random() < 0.7, self.random.random() < 0.7)
        self.note(f"partition {self.partition}")

        def heal() -> None:
            self.partition = (False, False)

        self.at(self.random.uniform(0.2, 6.0), heal)

    def _produce(self) -> None:
        if self._records_left <= 0:
            return
        self._records_left -= 1
        edge = self._any_edge()
        edge.append(self.random.choice((Lane.CRITICAL, Lane.BULK, Lane.BULK)))
        if self.has_downlink and self.whims.random() < 0.5:
            self.hub.tell(self.whims.choice((Lane.CRITICAL, Lane.NORMAL)))
        self.at(self.random.expovariate(8.0), self._produce)

    def _calm_down(self) -> None:
        self.is_calm = True
        self.link = LinkWeather(delay_s=self.weather.link.delay_s)
        self._records_left = 0
        self.partition = (False, False)
        self.note("calm")

    # -- the network -----------------------------------------------------------------------------

    def carry(self, message: Message, deliver: Callable[[Message], None], *, is_up: bool) -> None:
        """Deliver a message late, twice, out of order, or not at all."""
        if self.partition[0 if is_up else 1]:
            return
        for delay_s in self.link.delays(self.random):
            self.at(delay_s, lambda: deliver(message))

    # -- what must hold --------------------------------------------------------------------------

    def check_log(self) -> None:
        """Nothing doubled, nothing inverted, in what is durable at the hub now."""
        seen: set[int] = set()
        last: dict[tuple[int, Lane], int] = {}
        for piece in self.hub.log.stored.pieces:
            if piece.codec in (Codec.DEAD, Codec.GAP):
                continue
            lane = piece.append.lane
            for origin, number, content in contents_in(piece):
                assert content not in seen, f"seed {self.seed}: {content} is doubled"
                assert number > last.get((origin, lane), 0), f"seed {self.seed}: {content} inverted"
                seen.add(content)
                last[origin, lane] = number

    def held(self, stored: Stored) -> set[int]:
        found: set[int] = set()
        for piece in stored.pieces:
            if piece.codec is Codec.DEAD:
                found |= {content for _, _, content in contents_in_dead(piece.payload)}
            elif piece.codec is not Codec.GAP:
                found |= {content for _, _, content in contents_in(piece)}
        return found

    def check_gone(self, records: list[Record]) -> None:
        """R6: what an edge forgets is in a backup, or in the log when there are none."""
        stored = self.hub.newest_backup if self.weather.has_backups else self.hub.log.stored
        missing = {record.content for record in records} - self.held(stored)
        assert not missing, f"seed {self.seed}: trimmed but not safe: {sorted(missing)}"

    def is_at_rest(self) -> bool:
        is_told = all(lane.floor == lane.tail for lane in self.hub.down.lanes)
        return self.is_calm and is_told and all(edge.is_delivered() for edge in self.edges)

    def take_effect(self, edge: int, content: int) -> None:
        """Something the hub told happens at an edge: once, and never undone."""
        self.happened[edge, content] += 1
        both = self.weather.edge_restore_every_s and self.weather.hub_restore_every_s
        if content not in self.in_doubt and not both:
            count = self.happened[edge, content]
            assert count == 1, f"seed {self.seed}: {content} took effect {count} times"

    def check_lost(self, lane: Lane, first: int, last: int) -> None:
        """The hub tells who waits for these that the edge does not have them any more (D11)."""
        both = self.weather.edge_restore_every_s and self.weather.hub_restore_every_s
        if len(self.edges) > 1 or both:
            return
        said = {
            content for content, (where, seq) in self.told.items()
            if where is lane and first <= seq <= last and content not in self.untold
        }  # fmt: skip
        had = said & self.edges[0].journal.effects.done
        assert not had, f"seed {self.seed}: said to be lost, and there: {sorted(had)}"

    def check_effects(self) -> None:
        """What the hub told took effect in its order, or a gap was stored that says so."""
        if len(self.edges) > 1:
            return
        effects = self.edges[0].journal.effects
        missing = set(self.told) - self.untold - {content for _, content in self.happened}
        gaps = sum(last - first + 1 for first, last in effects.gaps)
        assert not missing or gaps, f"seed {self.seed}: skipped in silence: {sorted(missing)[:9]}"
        if not self.weather.edge_restore_every_s:
            assert not missing, f"seed {self.seed}: never took effect: {sorted(missing)[:9]}"

    def _why_not_at_rest(self) -> str:
        lanes = [
            (edge.sender.state.value, [(w.floor, w.sent, w.tail) for w in edge.sender.lanes])
            for edge in self.edges
        ]
        down = [(lane.floor, lane.tail) for lane in self.hub.down.lanes]
        return f"not at rest after the trouble: {lanes} {down}"

    def check_end(self) -> None:
        self.check_log()
        self.check_effects()
        held = self.held(self.hub.log.stored)
        missing = set(self.accepted) - held - self.destroyed
        assert not missing, f"seed {self.seed}: lost {sorted(missing)[:10]}"
        if len(self.edges) > 1:
            return  # two copies of one disk deliver what they share when each of them can
        order: dict[tuple[int, Lane], int] = {}
        for piece in self.hub.log.stored.pieces:
            if piece.codec in (Codec.DEAD, Codec.GAP):
                continue
            for _, _, content in contents_in(piece):
                edge, lane, nth = self.accepted[content]
                assert order.get((edge, lane), -1) < nth, f"seed {self.seed}: {content} inverted"
                order[edge, lane] = nth


def contents_in_dead(payload: bytes) -> list[tuple[int, int, int]]:
    for codec in (Codec.ROWS, Codec.COLUMNS):
        try:
            _, events = batch.columns(codec, payload)
        except ValueError:
            continue
        return [(one.origin, one.number, int(one.body.partition(b":")[2])) for _, one in events]
    return []


class EdgeSim:
    """One gateway: a disk, a process that may die, and links it makes one after the other."""

    def __init__(self, world: World, journal: SimJournal) -> None:
        self.world = world
        self.journal = journal
        self.image = journal.image()
        self.life = 0  # of the process; what an earlier life scheduled does not happen
        self.route = 0
        self.clock_s = 0.0
        self.nth = len(world.edges)
        self._boot()

    def _boot(self) -> None:
        world = self.world
        self.life += 1
        self.origin = world.random.getrandbits(63) + 1
        self.number = 0
        self.down_floors = self.journal.effects.floors
        self._storing: deque[tuple[int, Batch]] = deque()
        self.sender = world.rules.sender(
            self.journal.positions(),
            incarnation=self.journal.incarnation,
            chain_at=self.journal.chain_at,
            wall_ns=lambda: world.wall_ns() + int(self.clock_s * 1e9),
            random=world.random,
            settings=SENDER,
            down=(lambda: self.journal.effects.floors) if world.has_downlink else None,
        )
        self._later(world.random.uniform(0.01, 0.5), self._connect)
        self._later(0.0, self._tick)

    def _later(self, delay_s: float, do: Callable[[], None]) -> None:
        life = self.life
        self.world.at(delay_s, lambda: do() if life == self.life else None)

    # -- trouble ---------------------------------------------------------------------------------

    def crash(self) -> None:
        self.world.note(f"edge {self.nth} crashes")
        self.route = 0
        self._boot()

    def restore(self) -> None:
        """The disk becomes what it was when the image was taken; now and then take a new one."""
        world = self.world
        if world.random.random() < 0.5:
            self.image = self.journal.image()
            return
        kept = {r.content for place in self.image.lanes.values() for r in place.records}
        # What the hub has now it may lose too, down to its newest backup.
        hub = world.hub
        can_fall_back = world.weather.hub_restore_every_s > 0
        held = world.held(hub.newest_backup if can_fall_back else hub.log.stored)
        for place in self.journal.lanes.values():
            world.destroyed |= {r.content for r in place.records} - kept - held
        world.note(f"edge {self.nth} is restored")
        # What took effect and was not acknowledged yet, the hub sends again to whoever lost it.
        lost = self.journal.effects.done - self.image.effects.done
        world.in_doubt |= lost & world.hub.down.unacknowledged()
        self.journal = self.image.image()
        self.crash()

    def step_clock(self) -> None:
        self.clock_s += self.world.random.choice((-3600.0, 3600.0, 3e8, -3e8))

    def append(self, lane: Lane) -> None:
        world = self.world
        self.number += 1
        world.contents += 1
        poison = world.random.random() < world.weather.poison
        self.journal.append(lane, self.origin, self.number, world.contents, poison=poison)
        world.accepted[world.contents] = (self.nth, lane, world.contents)
        self._step(edge_core.Grown(lane, self.journal.lanes[lane].tail))

    def is_delivered(self) -> bool:
        """Whether this hub has told this process that it has everything."""
        if self.sender.generation != self.world.hub.log.stored.generation:
            return False
        return all(lane.floor == lane.tail for lane in self.sender.lanes)

    # -- the shell -------------------------------------------------------------------------------

    def _connect(self) -> None:
        is_storing = bool(self._storing) and not self.world.rules.down_greets_early
        if is_storing or self.sender.state is not edge_core.State.DOWN:
            self._later(0.2, self._connect)
            return
        self.route = self.world.random.getrandbits(62) + 1
        self._step(edge_core.LinkUp())

    def _tick(self) -> None:
        now = self.world.now
        self._step(edge_core.Tick())
        self._later(max(0.01, min(1.0, self.sender.due_at(now) - now)), self._tick)

    def _step(self, event: edge_core.Event) -> None:
        for effect in self.sender.step(event, self.world.now):
            self._carry_out(effect)

    def _carry_out(self, effect: edge_core.Effect) -> None:
        random = self.world.random
        match effect:
            case edge_core.Transmit(message):
                peer = Peer(route=self.route.to_bytes(8, "big"), edge=NAME)
                hub = self.world.hub
                self.world.carry(message, lambda m: hub.hear(peer, self, m), is_up=True)
            case edge_core.Load():
                self._later(random.uniform(0.0, 0.02), lambda: self._load(effect))
            case edge_core.Store(token, one):
                self._storing.append((token, one))
                if len(self._storing) == 1:
                    self._later(self._storing_s(), self._carry_out_next)
            case edge_core.DownBegun(incarnation, floors):
                self.down_floors = DownFloors(incarnation, floors)
            case edge_core.Mark(lane, floor, safe):
                self._check_acknowledged(lane, floor)
                self._later(random.uniform(0.0, 0.1), lambda: self._mark(lane, floor, safe))
            case edge_core.Rewind(lane, floor):
                self.life += 1  # marks under way are void
                self._restart_clockwork()
                self.journal.rewind(lane, floor)
            case edge_core.Fork():
                self._later(random.uniform(0.0, 0.1), self._fork)
            case edge_core.Dead(lane, seq, _):
                found = self.journal.read(lane, seq, 1)
                self.world.dead |= {record.content for record in found}
            case edge_core.Report(kind, facts):
                self.world.note(f"edge {self.nth} {kind} {json.dumps(dict(facts))}")
            case edge_core.Hangup(_, retry_s):
                self._hang_up(retry_s)

    def _restart_clockwork(self) -> None:
        self._later(0.05, self._tick)

    def _hang_up(self, retry_s: float) -> None:
        self.route = 0
        self._step(edge_core.LinkDown())
        self._later(min(retry_s, 3.0) + self.world.random.uniform(0.1, 1.0), self._connect)

    def _load(self, asked: edge_core.Load) -> None:
        count = min(asked.limit_records, asked.last_max - asked.first + 1)
        records = self.journal.read(asked.lane, asked.first, count)
        if not records:
            self._step(edge_core.LoadedNothing(asked.lane, asked.first))
            return
        prev_chain = self.journal.chain_at(asked.lane, asked.first - 1) or 0
        rows = rows_of(records, asked.lane, prev_chain)
        codec, payload = batch.pack(rows, prev_chain=prev_chain)
        self._step(
            edge_core.Loaded(
                lane=asked.lane,
                first=records[0].seq,
                last=records[-1].seq,
                prev_chain=prev_chain,
                last_chain=records[-1].chain,
                codec=Codec(codec),
                payload=payload,
            )
        )

    def _carry_out_next(self) -> None:
        """Carry out the batch that is first in line: one transaction, and then the answer."""
        token, one = self._storing.popleft()
        rules, effects = self.world.rules, self.journal.effects
        effects.knows_ids = not rules.down_no_ids
        refused, reached, new = effects.carry_out(self.down_floors, one)
        if rules.down_two_steps:
            effects.done -= set(new)
            self._later(0.3, lambda: self._take_effect(new))
        else:
            self._take_effect(new)
        if reached.incarnation == self.down_floors.incarnation:
            self.down_floors = reached
        floor = reached.lanes[one.lane].floor
        answer = refused or edge_core.Stored(token, floor, floor)
        self._step(msgspec.structs.replace(answer, token=token))
        if self._storing:
            self._later(self._storing_s(), self._carry_out_next)

    def _storing_s(self) -> float:
        """Return how long a transaction takes; a worn card stalls now and then."""
        whims = self.world.whims
        return whims.uniform(0.0, 6.0 if whims.random() < 0.05 else 0.1)

    def _take_effect(self, contents: Sequence[int]) -> None:
        self.journal.effects.done |= set(contents)
        for content in contents:
            self.world.take_effect(self.nth, content)

    def _check_acknowledged(self, lane: Lane, floor: int) -> None:
        """I1, I4: what the edge takes for durable is durable, while that hub lives."""
        hub = self.world.hub
        if self.sender.generation != hub.log.stored.generation:
            return
        place = self.journal.lanes[lane]
        wanted = {r.content for r in place.records if place.start < r.seq <= floor}
        missing = wanted - self.world.held(hub.log.stored)
        assert not missing, f"seed {self.world.seed}: acknowledged, not stored: {sorted(missing)}"

    def _mark(self, lane: Lane, floor: int, safe: int) -> None:
        place = self.journal.lanes[lane]
        if floor > place.tail:
            return
        trim_to = floor if self.world.rules.trims_at_ack else max(safe, place.safe)
        gone = self.journal.mark(lane, floor, max(safe, trim_to), trim_to=min(trim_to, floor))
        self.world.check_gone(gone)
        self._step(edge_core.Trimmed(lane, place.trimmed))

    def _fork(self) -> None:
        rules = self.world.rules
        name = self.journal.incarnation if rules.fork_keeps_name else self.world.bytes16()
        self.world.note(f"edge {self.nth} forks")
        self.journal.fork(name)
        self.origin = self.world.random.getrandbits(63) + 1
        self.number = 0
        if rules.fork_renames_records:
            self._rename_records()
        self._step(edge_core.Forked(name, self.journal.positions()))

    def _rename_records(self) -> None:
        for lane, place in self.journal.lanes.items():
            old, place.records = place.records, []
            place.tail, place.tail_chain = place.trimmed, place.trimmed_chain
            for record in old:
                self.number += 1
                poison = record.draft.body.startswith(POISON)
                args = (lane, self.origin, self.number, record.content)
                self.journal.append(*args, poison=poison)

    def hear(self, message: Message) -> None:
        # Also what was meant for an earlier link: sockets would not do that, a replayed frame does.
        if self.route:
            self._step(edge_core.Received(message))


class HubSim:
    """The hub: a disk, a process that may die, one receiver for the one name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log = SimLog(world.bytes16(), world.rules.book)
        self.log.book.has_backups = world.weather.has_backups
        self.newest_backup = self.log.backup()
        self.down = SimDownlink(world.whims.randbytes(16), keeps_acked=world.rules.down_keeps_acked)
        self.down_backup = self.down.copied()
        self.life = 0
        self._boot()

    def tell(self, lane: Lane) -> None:
        """Store something for the edge; whoever asked for it knows that it is."""
        world = self.world
        content = len(world.told) + len(world.untold) + 1_000_000
        tail = self.down.append(lane, content)
        world.told[content] = (lane, tail)
        self._step(hub_core.Grown(lane, tail))

    def _boot(self) -> None:
        self.life += 1
        self.receiver = self.world.rules.receiver(NAME, RECEIVER)
        self.peers: dict[bytes, EdgeSim] = {}
        self._queue: list[hub_core.Store | hub_core.Open] = []
        self._is_committing = False
        self._later(1.0, self._tick)

    def _later(self, delay_s: float, do: Callable[[], None]) -> None:
        life = self.life
        self.world.at(delay_s, lambda: do() if life == self.life else None)

    def crash(self) -> None:
        self.world.note("hub crashes")
        self.log.reopen(self.log.stored)
        self._boot()

    def restore(self) -> None:
        """The disk becomes the newest backup; a restored log has a new generation."""
        self.world.note("hub is restored")
        stored = self.newest_backup
        self.log.reopen(stored)
        self.world.untold |= self.down.contents() - self.down_backup.contents()
        self.down = self.down_backup.copied()
        self.newest_backup = self.log.backup()
        self.log.stored.generation = self.world.bytes16()
        for edge in self.log.stored.epochs:
            self.log.stored.epochs[edge] += EPOCHS_SKIPPED
        self._boot()

    def take_backup(self) -> None:
        if self._is_committing:  # the log takes its turn with commits
            self._later(0.05, self.take_backup)
            return
        self.newest_backup = self.log.backup()
        self.down_backup = self.down.copied()
        self.log.raise_safe(self.newest_backup)

    def _tick(self) -> None:
        self._step(hub_core.Tick())
        self._later(1.0, self._tick)

    def hear(self, peer: Peer, edge: EdgeSim, message: Message) -> None:
        self.peers[peer.route] = edge
        self._step(hub_core.Received(peer, message))

    def _step(self, event: hub_core.Event) -> None:
        for effect in self.receiver.step(event, self.world.now, self.world.wall_ns()):
            match effect:
                case hub_core.Transmit(peer, message):
                    edge = self.peers.get(peer.route)
                    if edge is not None:
                        self.world.carry(message, edge.hear, is_up=False)
                case hub_core.Store() | hub_core.Open():
                    self._queue.append(effect)
                    self._commit_soon()
                case hub_core.Load():
                    self._later(self.world.whims.uniform(0.0, 0.02), partial(self._load, effect))
                case hub_core.Lost(lane, first, last):
                    self.world.check_lost(lane, first, last)
                case hub_core.Mark(lane, floor):
                    self._later(
                        self.world.whims.uniform(0.0, 0.1), partial(self.down.mark, lane, floor)
                    )
                case hub_core.Report(kind, facts):
                    self.world.note(f"hub {kind} {json.dumps(dict(facts))}")

    def _load(self, asked: hub_core.Load) -> None:
        self._step(self.down.load(asked))

    def _commit_soon(self) -> None:
        """Decide everything that waits; it is durable a moment later, if no crash comes first."""
        if self._is_committing or not self._queue:
            return
        self._is_committing = True
        group, self._queue = self._queue, []
        changes = Changes()
        answers = [self._judge(one, changes) for one in group]
        if self.world.rules.acks_early:
            self._answer(answers)

        def durable() -> None:
            self.log.commit(changes)
            self.world.check_log()
            self._is_committing = False
            if not self.world.rules.acks_early:
                self._answer(answers)
            self._commit_soon()

        self._later(self.world.random.uniform(0.001, 0.1), durable)

    def _answer(self, answers: Sequence[hub_core.Event]) -> None:
        for answer in answers:
            self._step(answer)
            if isinstance(answer, hub_core.Opened):  # what was told since its journal was read
                for lane, place in zip(Lane, self.down.lanes, strict=True):
                    self._step(hub_core.Grown(lane, place.tail))

    def _slows_down(self) -> bool:
        world = self.world
        return not world.is_calm and world.whims.random() < world.weather.slow

    def _pause_s(self) -> float:
        return self.world.whims.uniform(0.1, 3.0)

    def _judge(self, one: hub_core.Store | hub_core.Open, changes: Changes) -> hub_core.Event:
        if isinstance(one, hub_core.Open):
            session = self.log.open_session(NAME, one.incarnation, one.starts, changes)
            generation = self.log.stored.generation
            down = None
            if one.down is not None:
                down = self.down.begin(one.down, self.world.whims.randbytes(16))
            return hub_core.Opened(one.token, session.epoch, generation, session.floors, down=down)
        asked = one.batch
        if self._slows_down():
            return hub_core.Stored(
                one.token, 0, 0, code=NackCode.BUSY, reason=SLOW, pause_s=self._pause_s()
            )
        if asked.codec not in (Codec.DEAD, Codec.GAP):
            _, events = batch.columns(asked.codec, asked.payload)
            if any(event.body.startswith(POISON) for _, event in events):
                return hub_core.Stored(one.token, 0, 0, code=NackCode.POISON, reason="poison")
        fields = {
            name: getattr(asked, name) for name in Append.__struct_fields__ if hasattr(asked, name)
        }
        result = self.log.decide(Append(edge=NAME, **fields), changes)
        if isinstance(result, Appended):
            pause_s, reason = (self._pause_s(), SLOW) if self._slows_down() else (0.0, "")
            return hub_core.Stored(
                one.token, result.floor, result.safe, reason=reason, pause_s=pause_s
            )
        is_stale = result.code is None
        return hub_core.Stored(
            one.token, result.floor, 0, code=result.code, is_stale=is_stale, reason=result.reason
        )
