"""Two readers of one log: a hub that serves, cut short and started again, and one that only reads.

`python -m tests.hubd.cells.readers --schedules 10000` tries as many, `... --wider 2000` as many of
those in wider.py; `... LOG...` prints a digest of the keys that logs in files lead to.
"""

import hashlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import msgspec

from edgesync._native.cells import encode_ops
from edgesync._native.edgekeys import NAMED_FROM, NAMED_TO, EdgeKeys
from edgesync.cells import as_bytes
from edgesync.cells.commands import Call, carry_out
from edgesync.cells.parts import KEYSPACE_BYTES, Tag, cut
from edgesync.errors import RecordError
from edgesync.model import RecordKind
from edgesync_transport.messages import Lane, Pull
from hubd.cells import HubCells, proposals
from hubd.cells.proposals import Proposal
from hubd.log.base import Entry
from tests.cells.memory import MemoryView
from tests.hubd.batches import START_NS, Edge
from tests.hubd.keys import proposed

GENERATION = b"g" * 16
EDGES = 3
STRATEGIES = [[], [(b"", 1)], [(b"h", 2), (b"s", 3)], [(b"", 2)]]


def command(random: Random) -> tuple[object, ...]:
    """Return something that a client may ask for; some of it fails."""
    one, other, third = (b"%c%d" % (random.choice(b"shez"), random.randrange(3)) for _ in "123")
    member, n = b"m%d" % random.randrange(6), random.randrange(-3, 9)
    return random.choice([
        ("SET", one, member), ("SET", one, member, "PX", random.choice((1, 5000, 90_000))),
        ("INCRBY", one, n), ("APPEND", one, member), ("GETDEL", one), ("DEL", one, other),
        ("HSET", one, member, n, "f", n), ("HDEL", one, member), ("HINCRBY", one, member, n),
        ("SADD", one, member, n, "x"), ("SREM", one, member), ("SPOP", one), ("SPOP", one, 2),
        ("SUNIONSTORE", one, other, third), ("SINTERSTORE", one, other, third),
        ("SDIFFSTORE", one, other, third), ("SMOVE", one, other, member),
        ("ZADD", one, n, member, n + 1, "y"), ("ZINCRBY", one, n, member), ("ZPOPMIN", one),
        ("ZUNIONSTORE", one, 2, other, third), ("ZINTERSTORE", one, 2, other, third),
        ("RPUSH", one, member, n), ("LPOP", one), ("LTRIM", one, 0, 1),
        ("SORT", one, "STORE", other),
        ("PEXPIRE", one, random.choice((1, 5000, 90_000))), ("PERSIST", one),
        ("RENAME", one, other), ("COPY", one, other, "REPLACE"), ("MSET", one, n, other, n),
    ])  # fmt: skip


class Gateway:
    """An edge's keys in memory, and what it has confirmed to the hub."""

    def __init__(self, number: int, random: Random) -> None:
        self.name = f"edge{number}"
        self._random = random
        self._lives = 0
        self.begin()

    def begin(self) -> None:
        """Be another life of the store."""
        self._lives += 1
        self.incarnation = b"%15d%d" % (self._lives, int(self.name[-1]))
        self.space = EdgeKeys(MemoryView())
        self.space.call_yourself(self._random.randrange(NAMED_FROM, NAMED_TO))
        self._call = Call(self.space, self._random)
        self.edge = Edge(self.name, Lane.NORMAL, origin=100 * self._lives + int(self.name[-1]))
        self.pull = Pull(
            epoch=1, token=1, keyspace=bytes(16), replica=self.space.r, base=0, after=0, made=0
        )

    def write(self, now_ns: int) -> None:
        self.space.now_ms = now_ns // 1_000_000
        for _ in range(self._random.choice((1, 1, 3, 300))):
            carry_out(self._call, [as_bytes(one) for one in command(self._random)])  # type: ignore[arg-type]

    def send(self, position: int) -> Entry:
        tag = Tag(self.pull.keyspace[:KEYSPACE_BYTES], self._lives, self.pull.replica)
        for body in cut(tag.encode() + encode_ops(self.space.r, self.space.take())):
            self.edge.record(RecordKind.CELLS, body)
        entry = self.edge.entry(position)
        return msgspec.structs.replace(entry, incarnation=self.incarnation)


class World:
    """A schedule of one seed. `log` is what came of it, `live` the keys of the hub that served."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = Random(seed)
        self.folder = folder
        self.log: list[Entry] = []
        self.now_ns = START_NS
        self._number = 0
        self.gateways = [Gateway(number, self.random) for number in range(EDGES)]
        self.live = self._open()
        self._start()

    def _open(self) -> HubCells:
        return HubCells(
            self.folder, GENERATION, len(self.log), random=Random(self.random.random()),
            strategies=self.random.choice(STRATEGIES), wall_ns=lambda: self.now_ns,
            start=self.random.getrandbits(40) | 1,
        )  # fmt: skip

    def _start(self) -> None:
        """Let the log begin, or go on, with a start of the hub."""
        self.propose(self.live.start_proposal())

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now_ns += self.random.choice((0, 1, 1000, 60_000)) * 1_000_000
            weights = (4, 4, 4, 3, 3, 1, 1, 2)
            doings = (
                self.write, self.send, self.ask, self.command, self.care, self.restart,
                self.upset, self.commit,
            )  # fmt: skip
            (do,) = self.random.choices(doings, weights)
            do()
        self._catch_up()

    # -- what happens --------------------------------------------------------------------------

    def append(self, entry: Entry) -> None:
        self.log.append(msgspec.structs.replace(entry, stored_at_ns=self.now_ns))
        if self.random.random() < 0.7:
            self._catch_up()

    def propose(self, proposal: Proposal) -> None:
        self._number += 1
        self.append(proposed(proposal, self._number, len(self.log) + 1))

    def _catch_up(self) -> None:
        """Carry out what the log has; now and then something else comes between two steps."""
        for entry in self.log[self.live.position :]:
            for _ in project(self.live, entry):
                if self.random.random() < 0.2:
                    self.live.run([b"GET", b"s0"])  # a client reads, at another time
                if self.random.random() < 0.1:
                    self.live.commit()
                if self.random.random() < 0.02:
                    self._cut_short()
                    return self._catch_up()
        return None

    def _gateway(self) -> Gateway:
        return self.random.choice(self.gateways)

    def write(self) -> None:
        self._gateway().write(self.now_ns)

    def send(self) -> None:
        self.append(self._gateway().send(len(self.log) + 1))

    def ask(self) -> None:
        """A gateway asks as often as it takes to know all, or is told its name."""
        gateway = self._gateway()
        self._catch_up()
        while lacking := self.live.lacking(gateway.name, gateway.incarnation, gateway.pull):
            self.propose(lacking)
            self._catch_up()
        answer = self.live.answer(gateway.name, gateway.pull, 0)
        pull, keyspace = gateway.pull, self.live.mark.keyspace
        if (pull.replica, pull.keyspace) != (answer.replica, keyspace):
            gateway.space.rejoin(answer.replica)
            gateway.pull = msgspec.structs.replace(
                pull, replica=answer.replica, keyspace=keyspace, base=0, after=0
            )
            return
        acked = self.live.replicas()[gateway.name].acked
        gateway.space.deliver(answer.entries, acked)
        gateway.space.note_seen(dict(zip(answer.seen[::2], answer.seen[1::2], strict=True)))
        base = answer.position if answer.is_all else pull.base
        gateway.pull = msgspec.structs.replace(
            pull, base=base, after=answer.position, start=self.live.lineage.start
        )

    def command(self) -> None:
        requests = [
            tuple(as_bytes(one) for one in command(self.random))  # type: ignore[arg-type]
            for _ in range(self.random.choice((1, 2, 20)))
        ]
        self.propose(proposals.Run(tuple(requests)))

    def care(self) -> None:
        now_ms = self.now_ns // 1_000_000
        for _ in range(4):
            due = self.live.due(now_ms - 600_000, now_ms - 300_000)
            if due is None:
                return
            self.propose(due)
            self._catch_up()

    def restart(self) -> None:
        if self.random.random() < 0.5:
            self.live.close()
            self.live = self._open()
        else:
            self._cut_short()
        self._start()

    def _cut_short(self) -> None:
        """The power fails: what was not committed is gone."""
        self.live._own.close()
        self.live = self._open()

    def upset(self) -> None:
        """Something that happens seldom."""
        found = self.live.conflicts.find(status="open", limit=1)
        choice = self.random.choice(((b"WINNER",), (b"VALUE", b"v"), (b"DOT", b"1", b"1")))
        self.random.choice((
            lambda: self.propose(proposals.GiveUp((self._gateway().name,))),
            lambda: self.propose(proposals.Resolve(found[0].id if found else 7, choice)),
            lambda: self.propose(proposals.Renew(self.live.mark.keyspace, b"another")),
            self._gateway().begin,
        ))()  # fmt: skip

    def commit(self) -> None:
        self.live.commit()


def rows_of(cells: HubCells) -> dict[bytes, bytes]:
    """Return all that is stored.

    What follows from another strategy is counted when somebody looks at a key: all are looked at.
    """
    name: bytes | None = None
    while names := cells.space.names(name, b"", 1000):
        for name in names:
            cells.space.type_of(name)
    cells.save_position()
    cells.commit()
    rows = dict[bytes, bytes]()
    start = b""
    while page := cells.rows.scan(start, b"\xff" * 8, limit=1000):
        rows.update(page)
        start = page[-1][0] + b"\0"
    return rows


def project(cells: HubCells, entry: Entry) -> Iterator[None]:
    """Carry out an entry, as who reads a log does: one that cannot be is passed by."""
    try:
        yield from cells.project(entry)
    except RecordError:
        cells.pass_over(entry.position)


def read(log: list[Entry], folder: Path, random: Random) -> dict[bytes, bytes]:
    """Return what a reader has that begins at the beginning, and commits when it likes."""
    with closing(HubCells(folder, GENERATION, len(log), random=random)) as cells:
        for entry in log:
            for _ in project(cells, entry):
                pass
            if random.random() < 0.1:
                cells.commit()
        return rows_of(cells)


def digest(rows: dict[bytes, bytes]) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(sorted(rows.items()))).hexdigest()


def differences(
    seed: int, steps: int, make: Callable[[int, Path], World] = World
) -> tuple[list[bytes], list[Entry]]:
    """Return which rows two readers of a schedule have otherwise, and the log."""
    with tempfile.TemporaryDirectory() as folder:
        world = make(seed, Path(folder) / "live")
        try:
            world.run(steps)
            live = rows_of(world.live)
        finally:
            world.live.close()
        other = read(world.log, Path(folder) / "other", Random(seed))
    names = sorted(live.keys() | other.keys())
    return [name for name in names if live.get(name) != other.get(name)], world.log


def digests(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        log = msgspec.msgpack.decode(path.read_bytes(), type=list[Entry])
        with tempfile.TemporaryDirectory() as folder:
            yield digest(read(log, Path(folder), Random(1)))


def main(arguments: list[str]) -> int:
    if arguments[:1] not in (["--schedules"], ["--wider"]):
        print(*digests([Path(name) for name in arguments]))
        return 0
    logging.disable(logging.CRITICAL)
    make = World if arguments[0] == "--schedules" else wider()
    found = 0
    for seed in range(int(arguments[1])):
        different, log = differences(seed, 100, make)
        if different:
            print(f"seed {seed}, {len(log)} entries: rows differ: {different[:10]}", flush=True)
            found += 1
        if seed % 1000 == 999:
            print(f"{seed + 1} schedules, {found or 'no'} difference{'s'[:found]}", flush=True)
    return 1 if found else 0


def wider() -> Callable[[int, Path], World]:
    from tests.hubd.cells.wider import Wider

    return Wider


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
