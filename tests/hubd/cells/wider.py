"""Schedules with what comes seldom: what an edge holds, damaged records, copied disks, full ones.

The schedules of readers.py are as they are, so that a seed stays what it was.
"""

from itertools import islice

import msgspec

from edgesync._native.cells import Op, encode_ops
from edgesync.cells.parts import cut
from edgesync.errors import StoreFull
from edgesync.model import RecordKind
from edgesync.store.commit import Tails
from edgesync.store.retell import Teller
from edgesync_transport.messages import Codec, Lane
from hubd.cells import proposals
from hubd.log.base import Entry
from tests.hubd.cells.readers import Gateway, World, project


class Wider(World):
    """See the module."""

    def _start(self) -> None:
        if not self.log:  # edges may be heard before the hub has said that it starts
            for _ in range(self.random.randrange(3)):
                self.write()
                self.send()
        super()._start()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.random.random() < 0.2:
                self.random.choice((
                    self.tell, self.damage, self.copy, self.lack, self.forge, self.repeat,
                    self.flush, self.choose, self.fill, self.pass_by,
                ))()  # fmt: skip
            else:
                super().run(1)
        self._catch_up()

    def replace(self, entry: Entry, **changes: object) -> None:
        changes["position"] = len(self.log) + 1
        self.append(msgspec.structs.replace(entry, **changes))

    def told(self, gateway: Gateway) -> None:
        """Append what a gateway has in its records."""
        entry = gateway.edge.entry(len(self.log) + 1)
        self.replace(entry, incarnation=gateway.incarnation)

    # -- what happens --------------------------------------------------------------------------

    def tell(self) -> None:
        """A gateway tells all it has, or some of it: in one entry or several."""
        gateway = self._gateway()
        teller = Teller(
            gateway.space, (), keyspace=gateway.pull.keyspace,
            token=self.random.getrandbits(40) | 1, covers=self.random.random() < 0.7,
        )  # fmt: skip
        for data, _ in islice(iter(teller.step, None), self.random.choice((1, 9, 9))):
            for body in cut(data):
                gateway.edge.record(RecordKind.CELLS, body)
            if self.random.random() < 0.5:
                self.told(gateway)
        self.told(gateway)

    def damage(self) -> None:
        """A record says what cannot be, behind what can."""
        gateway = self._gateway()
        stamp, first = self.now_ns // 1_000_000 << 16, gateway.space.n + 1
        ops = [Op(first + n, stamp, 0, 0, b"h%d" % n, b"hf", b"x") for n in range(3)]
        ops.append(Op(first + 3, stamp, 0, 0, b"h1", b"?", b""))
        bodies = [encode_ops(gateway.space.r, ops), self.random.randbytes(20)]
        for data in self.random.sample(bodies, self.random.choice((1, 2))):
            for body in cut(data):
                gateway.edge.record(RecordKind.CELLS, body)
        self.append(gateway.send(len(self.log) + 1))

    def copy(self) -> None:
        """Another gateway, or the same, tells again what one has told."""
        told = [entry for entry in self.log if entry.codec is not Codec.PROPOSAL]
        if told:
            gateway = self._gateway()
            self.replace(
                self.random.choice(told), edge=gateway.name, incarnation=gateway.incarnation
            )

    def lack(self) -> None:
        """Records of a gateway were trimmed before they were sent."""
        gateway = self._gateway()
        self.replace(
            gateway.edge.gap(len(self.log) + 1, 1, "trimmed"), incarnation=gateway.incarnation
        )

    def forge(self) -> None:
        """An edge says what only hubs may."""
        self.replace(self.random.choice(self._proposed()), edge=self._gateway().name)

    def repeat(self) -> None:
        """Something is proposed twice."""
        self.propose(proposals.decode(self.random.choice(self._proposed())))

    def _proposed(self) -> list[Entry]:
        return [entry for entry in self.log if entry.codec is Codec.PROPOSAL]

    def flush(self) -> None:
        self.propose(proposals.Run(((b"FLUSHALL",),)))

    def choose(self) -> None:
        """One of the sides of a conflict is chosen."""
        found = self.live.conflicts.find(status="open", limit=20)
        if found:
            one = self.random.choice(found)
            sides = [side for side in (one.winner, *one.losers) if side is not None]
            side = self.random.choice(sides)
            self.propose(proposals.Resolve(one.id, (b"DOT", b"%d" % side.r, b"%d" % side.n)))

    def pass_by(self) -> None:
        """What is no business of keys is in the log as well."""
        self.replace(self._gateway().edge.gap(len(self.log) + 1, 1, "full"), lane=Lane.BULK)

    def fill(self) -> None:
        """A commit is refused, perhaps between two steps of an entry: its disk is full."""
        for entry in self.log[self.live.position :]:
            for _ in project(self.live, entry):
                if self.random.random() < 0.3:
                    return self._refuse()
        return self._refuse()

    def _refuse(self) -> None:
        own = self.live._own
        submit, own.submit_sync = own.submit_sync, _refuse  # type: ignore[method-assign]
        try:
            self.live.commit()
        except StoreFull:
            pass
        finally:
            own.submit_sync = submit  # type: ignore[method-assign]


def _refuse(write: object) -> Tails:
    raise StoreFull(used_bytes=1, limit_bytes=1)
