"""The hub's journal for each of its edges, in owned state.

    start <= floor <= trimmed <= tail, on each lane

A record is appended in the transaction of what caused it, and deleted once the edge has said that
it is on its disk: what was acknowledged is never sent again, also to an edge whose store has been
restored. The gap is declared then, and the edge stores that it was. Between floor and trimmed is
what was given up: the edge is told of it as of a gap.

An incarnation names the life of a journal. A restored one, whose edge knows records that it does
not have, takes a new incarnation and keeps its seqs; what it still has is told again, and whatever
takes effect knows doubles by an id of its own.
"""

import base64
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from edgesync_transport.lanes.events import DownFloors, Load, Loaded, LoadedNothing
from edgesync_transport.lanes.sender import LaneSender, Slowdown
from edgesync_transport.lanes.window import LanePositions
from edgesync_transport.messages import Codec, Lane, LaneFloor
from edgesync_transport.receiver import DOWNLINK, DownOffer
from hubd.downlink.records import DownRecord, chain_after, pack
from hubd.errors import EdgeUnknown, HubError
from hubd.owned import Owned, tables

Row = sa.Row[Any]

BODY_BYTES_MAX: Final = 60 * 1024
# Of one edge (I7): what an edge that never comes back costs.
RECORDS_MAX: Final = 10_000
BYTES_MAX: Final = 16 << 20
# What is older goes, from the front on, and the edge is told that it has gone.
AGE_MAX_NS: Final = 30 * 86_400 * 10**9


class DownlinkFull(HubError):
    """Nothing was appended: the edge has not taken what waits for it."""

    def __init__(self, edge: str, records: int, nbytes: int) -> None:
        super().__init__(
            f"{records} records of {nbytes} bytes wait for the edge {edge}, at most {RECORDS_MAX} "
            f"of {BYTES_MAX} bytes may; bring it back to the hub, or `hubd downlink {edge} --clear`"
        )
        self.edge = edge


class DownlinkView(msgspec.Struct, frozen=True, kw_only=True):
    """The records that wait for an edge.

    oldest_ns   since when the oldest record waits; None: nothing does
    forks       how often the journal took a new incarnation: this hub was restored
    refused     records that were refused because the journal was full
    """

    edge: str
    records: int = 0
    nbytes: int = 0
    oldest_ns: int | None = None
    forks: int = 0
    refused: int = 0
    lanes: tuple["DownLaneView", ...] = ()


class DownLaneView(msgspec.Struct, frozen=True, kw_only=True):
    """floor: the edge has everything up to there; tail: the newest record."""

    lane: str
    tail: int
    floor: int
    trimmed: int


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is stored here, and not known to be on its edge's disk. `body` is encoded."""

    edge: str
    lane: Lane
    seq: int
    body: bytes
    created_ns: int


class Journal:
    """See the module. Calls are short and synchronous, from any thread; errors: those of Owned."""

    def __init__(self, owned: Owned, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._owned = owned
        self._clock_ns = clock_ns

    # -- in --------------------------------------------------------------------------------------

    def send(self, edge: str, lane: Lane, bodies: Sequence[bytes]) -> int:
        """Append events by themselves; returns the tail. Raises EdgeUnknown, DownlinkFull."""
        known = tables.edge.c
        with self._owned.write() as connection:
            asked = sa.select(known.name).where(known.name == edge, known.revoked_ns.is_(None))
            if connection.scalar(asked) is None:
                raise EdgeUnknown(edge)
            return self.append(connection, edge, lane, bodies)

    def append(
        self, connection: sa.Connection, edge: str, lane: Lane, bodies: Sequence[bytes]
    ) -> int:
        """Append events in the transaction of what causes them; returns the lane's tail.

        `edge` must be in `owner`. Raises DownlinkFull, and nothing is appended.
        """
        life = self._life(connection, edge)
        rows = {row.lane: row for row in self._lanes(connection, edge)}
        records = sum(row.tail - row.trimmed for row in rows.values())
        nbytes = sum(row.nbytes for row in rows.values())
        more = sum(-(-len(body) // 3) * 3 for body in bodies)
        if records + len(bodies) > RECORDS_MAX or nbytes + more > BYTES_MAX:
            raise DownlinkFull(edge, records, nbytes)
        row = rows[lane]
        chain, origin, made = int(row.tail_chain, 16), life[:16], []
        for seq, body in enumerate(bodies, row.tail + 1):
            assert len(body) <= BODY_BYTES_MAX + 4096, "events are checked where they are made"
            chain = chain_after(DownRecord(seq, int(origin, 16), body), chain)
            made.append({
                "edge": edge, "lane": int(lane), "seq": seq, "chain": f"{chain:016x}",
                "origin": origin, "body": base64.b64encode(body).decode(),
                "created_ns": self._clock_ns(),
            })  # fmt: skip
        connection.execute(tables.downlink_record.insert(), made)
        tail: int = row.tail + len(bodies)
        self._update(
            connection, edge, lane, tail=tail, tail_chain=f"{chain:016x}", nbytes=row.nbytes + more
        )
        return tail

    def count_refused(self, edge: str) -> None:
        """Count a record for which there was no room, so that it is seen."""
        table = tables.downlink
        with self._owned.write() as connection:
            connection.execute(
                table.update().where(table.c.edge == edge).values(refused=table.c.refused + 1)
            )

    def _life(self, connection: sa.Connection, edge: str) -> str:
        """Return the incarnation of the edge's journal, which begins when it is first asked for."""
        table = tables.downlink
        found = connection.scalar(sa.select(table.c.incarnation).where(table.c.edge == edge))
        if found is not None:
            return str(found)
        life = secrets.token_hex(16)
        connection.execute(table.insert().values(edge=edge, incarnation=life, forks=0, refused=0))
        none = f"{0:016x}"
        connection.execute(
            tables.downlink_lane.insert(),
            [
                {
                    "edge": edge, "lane": int(lane), "tail": 0, "tail_chain": none, "floor": 0,
                    "trimmed": 0, "trimmed_chain": none, "start": 0, "start_chain": none,
                    "nbytes": 0,
                }
                for lane in Lane
            ],
        )  # fmt: skip
        return life

    def _lanes(self, connection: sa.Connection, edge: str) -> Sequence[Row]:
        table = tables.downlink_lane
        return connection.execute(
            table.select().where(table.c.edge == edge).order_by(table.c.lane)
        ).all()

    def _update(self, connection: sa.Connection, edge: str, lane: int, **values: object) -> None:
        table = tables.downlink_lane
        connection.execute(
            table.update().where(table.c.edge == edge, table.c.lane == int(lane)).values(**values)
        )

    # -- sessions --------------------------------------------------------------------------------

    def begin(self, edge: str, theirs: DownFloors) -> tuple[DownOffer, str]:
        """Return what a session of the edge is offered, and why the journal has forked, if it has.

        Durable on return: the journal there is, or its new incarnation (D4, D5).
        """
        with self._owned.write() as connection:
            life = self._life(connection, edge)
            lanes = self._lanes(connection, edge)
            positions = tuple(_positions(row) for row in lanes)
            knows = theirs.incarnation.hex() == life
            reason = self._divergence(connection, edge, positions, theirs.lanes) if knows else ""
            if reason:
                life = self._fork(connection, edge, lanes)
                lanes = self._lanes(connection, edge)
                positions, knows = tuple(_positions(row) for row in lanes), False
            elif knows:
                for row, floor in zip(lanes, theirs.lanes, strict=True):
                    if floor.floor > row.floor:  # an ack was lost
                        self._mark(connection, edge, row, floor.floor)
                lanes = self._lanes(connection, edge)
                positions = tuple(_positions(row) for row in lanes)
            floors = tuple(
                floor if knows else LaneFloor(floor=at.start, chain=at.start_chain, safe=at.start)
                for floor, at in zip(theirs.lanes, positions, strict=True)
            )
        chains = tuple(int(row.trimmed_chain, 16) for row in lanes)
        return DownOffer(bytes.fromhex(life), positions, floors, chains), reason

    def _divergence(
        self,
        connection: sa.Connection,
        edge: str,
        positions: Sequence[LanePositions],
        floors: Sequence[LaneFloor],
    ) -> str:
        def chain_at(lane: Lane, seq: int) -> int | None:
            return self._chain_at(connection, edge, lane, seq)

        for lane, at, floor in zip(Lane, positions, floors, strict=True):
            sender = LaneSender(lane, at, DOWNLINK, chain_at, Slowdown())
            reason = sender.divergence(floor.floor, floor.chain)
            if not reason and at.floor < floor.floor < at.trimmed:
                reason = (
                    f"lane {lane}: the edge has {floor.floor}; what was given up here, up to "
                    f"{at.trimmed}, may have been another history"
                )
            if reason:
                return reason
        return ""

    def _chain_at(self, connection: sa.Connection, edge: str, lane: int, seq: int) -> int | None:
        places, records = tables.downlink_lane.c, tables.downlink_record.c
        asked = (
            sa.select(places.trimmed_chain).where(
                places.edge == edge, places.lane == int(lane), places.trimmed == seq
            ),
            sa.select(records.chain).where(
                records.edge == edge, records.lane == int(lane), records.seq == seq
            ),
        )
        found = next((one for one in map(connection.scalar, asked) if one is not None), None)
        return None if found is None else int(found, 16)

    def _fork(self, connection: sa.Connection, edge: str, lanes: Sequence[Row]) -> str:
        table, life = tables.downlink, secrets.token_hex(16)
        connection.execute(
            table.update()
            .where(table.c.edge == edge)
            .values(incarnation=life, forks=table.c.forks + 1)
        )
        for row in lanes:
            # D8: before what was given up, whose hash is gone with it; its gap is still to be told.
            chain = row.trimmed_chain if row.floor == row.trimmed else f"{0:016x}"
            self._update(connection, edge, row.lane, start=row.floor, start_chain=chain)
        return life

    # -- out -------------------------------------------------------------------------------------

    def load(self, edge: str, asked: Load) -> Loaded | LoadedNothing:
        """Answer a Load: consecutive records from `first` on, packed."""
        table = tables.downlink_record
        with self._owned.read() as connection:
            rows = connection.execute(
                table.select()
                .where(
                    table.c.edge == edge, table.c.lane == int(asked.lane),
                    table.c.seq >= asked.first, table.c.seq <= asked.last_max,
                )
                .order_by(table.c.seq)
                .limit(asked.limit_records)
            ).all()  # fmt: skip
            prev_chain = self._chain_at(connection, edge, asked.lane, asked.first - 1)
            if not rows or rows[0].seq != asked.first or prev_chain is None:
                lanes = {row.lane: row for row in self._lanes(connection, edge)}
                trimmed = lanes[asked.lane].trimmed if asked.lane in lanes else 0
                return LoadedNothing(asked.lane, asked.first, trimmed)
        taken: list[DownRecord] = []
        nbytes = 0
        for row in rows:
            body = base64.b64decode(row.body)
            nbytes += len(body)
            if taken and nbytes > asked.limit_bytes:
                break
            taken.append(DownRecord(row.seq, int(row.origin, 16), body))
        return Loaded(
            lane=asked.lane, first=asked.first, last=taken[-1].seq, prev_chain=prev_chain,
            last_chain=int(rows[len(taken) - 1].chain, 16), codec=Codec.ROWS, payload=pack(taken),
        )  # fmt: skip

    def mark(self, edge: str, floors: dict[Lane, int]) -> None:
        """The edge has these on its disk: they are not sent again, and forgotten here."""
        with self._owned.write() as connection:
            for row in self._lanes(connection, edge):
                floor = floors.get(Lane(row.lane), 0)
                if floor > row.floor:
                    self._mark(connection, edge, row, min(floor, row.tail))

    def _mark(self, connection: sa.Connection, edge: str, row: Row, floor: int) -> None:
        chain = self._chain_at(connection, edge, row.lane, floor)
        if chain is None:  # trimmed for its age meanwhile
            self._update(connection, edge, row.lane, floor=floor)
            return
        self._trim(connection, edge, row, floor, chain, floor=floor)

    def _trim(
        self, connection: sa.Connection, edge: str, row: Row, upto: int, chain: int,
        **values: object,
    ) -> None:  # fmt: skip
        table = tables.downlink_record
        lost = sa.and_(table.c.edge == edge, table.c.lane == int(row.lane), table.c.seq <= upto)
        chars = connection.scalar(sa.select(sa.func.sum(sa.func.length(table.c.body))).where(lost))
        freed = int(chars or 0) // 4 * 3
        connection.execute(table.delete().where(lost))
        self._update(
            connection, edge, row.lane, trimmed=upto,
            trimmed_chain=f"{chain:016x}", nbytes=max(0, row.nbytes - freed), **values,
        )  # fmt: skip

    def give_up_old(self, max_age_ns: int = AGE_MAX_NS) -> dict[str, int]:
        """Trim what has waited for too long, from the front of each lane; returns how much.

        A session that lasts must begin anew then.
        """
        table, gone = tables.downlink_record.c, dict[str, int]()
        old = table.created_ns < self._clock_ns() - max_age_ns
        newest: dict[tuple[str, int], int] = {}
        with self._owned.write() as connection:
            # Grouped here: SQLite would group by walking all there is in the order of the key.
            for edge, lane, seq in connection.execute(
                sa.select(table.edge, table.lane, table.seq).where(old)
            ):
                newest[edge, lane] = max(seq, newest.get((edge, lane), 0))
            for (edge, lane), upto in newest.items():
                for _, first, last in self._give_up(connection, edge, lane, upto):
                    gone[edge] = gone.get(edge, 0) + last - first + 1
        return gone

    def clear(self, edge: str) -> list[tuple[Lane, int, int]]:
        """Give up all that waits for an edge, which is told.

        Returns lane, first and last of what was given up. A session that lasts must begin anew
        then.
        """
        gone: list[tuple[Lane, int, int]] = []
        with self._owned.write() as connection:
            for row in self._lanes(connection, edge):
                gone += self._give_up(connection, edge, row.lane, row.tail)
        return gone

    def give_up_before(self, edge: str, before_ns: int) -> list[tuple[Lane, int, int]]:
        """Trim what was stored for an edge before a time, from the front of each lane.

        Returns lane, first and last of what was given up. A session that lasts must begin anew
        then. One transaction: an edge has RECORDS_MAX records at most.
        """
        table, gone = tables.downlink_record.c, list[tuple[Lane, int, int]]()
        with self._owned.write() as connection:
            for row in self._lanes(connection, edge):
                mine = sa.and_(table.edge == edge, table.lane == row.lane)
                kept = connection.scalar(
                    sa.select(sa.func.min(table.seq)).where(mine, table.created_ns >= before_ns)
                )
                upto = row.tail if kept is None else kept - 1
                gone += self._give_up(connection, edge, row.lane, upto)
        return gone

    def _give_up(
        self, connection: sa.Connection, edge: str, lane: int, upto: int
    ) -> list[tuple[Lane, int, int]]:
        """Trim a lane; return it with first and last of what was given up, nothing for none."""
        row = next(row for row in self._lanes(connection, edge) if row.lane == lane)
        if upto <= row.trimmed:
            return []
        chain = self._chain_at(connection, edge, lane, upto)
        if chain is None:
            return []
        self._trim(connection, edge, row, upto, chain)
        return [(Lane(lane), row.trimmed + 1, upto)]

    # -- shown -----------------------------------------------------------------------------------

    def view(self, edge: str) -> DownlinkView:
        """Return what waits for an edge; of one that was never told anything, nothing."""
        life, record = tables.downlink, tables.downlink_record
        with self._owned.read() as connection:
            row = connection.execute(life.select().where(life.c.edge == edge)).one_or_none()
            if row is None:
                return DownlinkView(edge=edge)
            lanes = self._lanes(connection, edge)
            oldest = connection.scalar(
                sa.select(sa.func.min(record.c.created_ns)).where(record.c.edge == edge)
            )
        return DownlinkView(
            edge=edge,
            records=sum(lane.tail - lane.trimmed for lane in lanes),
            nbytes=sum(lane.nbytes for lane in lanes),
            oldest_ns=oldest,
            forks=row.forks,
            refused=row.refused,
            lanes=tuple(
                DownLaneView(
                    lane=Lane(lane.lane).name.lower(),
                    tail=lane.tail, floor=lane.floor, trimmed=lane.trimmed,
                )
                for lane in lanes
            ),
        )  # fmt: skip

    def waiting(
        self, edges: Sequence[str], after: tuple[str, int, int], limit: int
    ) -> list[Waiting]:
        """Return records that wait for these edges, by edge, lane and seq, behind `after`."""
        record, place = tables.downlink_record, tables.downlink_lane
        question = (
            sa.select(record)
            .join(place, (place.c.edge == record.c.edge) & (place.c.lane == record.c.lane))
            .where(record.c.seq > place.c.floor)
            .where(sa.tuple_(record.c.edge, record.c.lane, record.c.seq) > sa.tuple_(*after))
            .where(record.c.edge.in_(edges))
            .order_by(record.c.edge, record.c.lane, record.c.seq)
            .limit(limit)
        )
        with self._owned.read() as connection:
            rows = connection.execute(question).all()
        return [
            Waiting(
                edge=row.edge, lane=Lane(row.lane), seq=row.seq,
                body=base64.b64decode(row.body), created_ns=row.created_ns,
            )
            for row in rows
        ]  # fmt: skip


def _positions(row: Row) -> LanePositions:
    return LanePositions(
        tail=row.tail, floor=row.floor, safe=row.floor, trimmed=row.trimmed, start=row.start,
        start_chain=int(row.start_chain, 16),
    )  # fmt: skip
