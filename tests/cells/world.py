"""Three edges, a hub and its clients, from one seed: what happens between them, and the oracle.

The lane carries operations in order and once each; what asks for the hub's state and what answers
may be lost, come late or twice. The hub itself may be lost, to come back empty or as it once was
(`losing`); then edges tell it all they have. Every step ends with cells compared with the full
history, under all four strategies.
"""

from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

from edgesync._native import cells
from edgesync._native.cells import Dot, Entry, Op
from edgesync._native.edgekeys import UNNAMED, EdgeKeys
from edgesync._native.hubkeys import HubKeys
from edgesync.model import Strategy
from tests.cells.memory import MemoryView
from tests.cells.oracle import AMOUNT, TOMB, VALUE, Fact, deadline_of, value_of

KEYS = (b"a", b"b", b"c")
NAMES = (b"s", b"hx", b"hy", b"em", b"zm", b"t")
History = dict[bytes, set[Fact]]


class Diverged(AssertionError):
    """The cells hold something else than the full history says."""


class Request:
    def __init__(self, edge: "Edge", whole: bool) -> None:
        self.edge, self.whole = edge, whole
        self.base, self.after, self.made = edge.base, edge.position, edge.made
        self.r = edge.keys.r
        self.keyspace = edge.keyspace
        self.wants: list[bytes] = []  # keys with values that only the hub has


class Reply:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.r = 0
        self.entries: list[Entry] = []
        self.position = self.acked = self.stable = 0
        self.is_all = False
        self.histories: History = {}
        self.keyspace = 0
        self.seen: dict[int, int] = {}
        self.is_begun = False  # some of its keys were delivered, and others worked since


class Edge:
    """An edge as its store has it: what is not committed is lost in a crash."""

    def __init__(self, number: int, make: Callable[[MemoryView], EdgeKeys]) -> None:
        self.number = number
        self.make = make
        self.view = MemoryView()
        self.keys = make(self.view)
        self.history: History = defaultdict(set)
        self.confirmed: set[Fact] = set()
        self.facts: dict[int, list[Fact]] = {}  # by the number of the operation they go in
        self.lane: list[tuple[int, Op, list[Fact]]] = []  # (r it was written as, …)
        self.base = self.position = 0
        self.made = 0  # operations made before `base` was reached
        self.listed: set[bytes] = set()  # in the pass from the beginning under way
        self.request: Request | None = None
        self.delivered: set[bytes] = set()  # keys, since it has this name
        self.is_fresh = False  # just rejoined: what it shows is checked after a whole pass
        self.keyspace = 0
        self.told: list[tuple[int, Op, list[Fact]]] = []  # all the hub took from the lane
        self.saved: dict[str, Any] = {}
        self.commit()

    def unheard(self, key: bytes, acked: int) -> set[Fact]:
        """Facts from here that the hub's state does not hold yet."""
        waiting = {fact for n, facts in self.facts.items() if n > acked for fact in facts}
        return {fact for fact in self.history[key] & waiting if fact not in self.confirmed}

    def shown(self, key: bytes) -> set[Fact]:
        """What a writer here can show to have from the hub: since it has its name."""
        return self.history[key] & self.confirmed if key in self.delivered else set()

    def commit(self) -> None:
        self.keys.save_counters()
        self.view.commit()
        self.saved = {
            "history": {key: set(facts) for key, facts in self.history.items()},
            "confirmed": set(self.confirmed),
            "facts": dict(self.facts),
            "lane": list(self.lane),
            "base": self.base,
            "position": self.position,
            "made": self.made,
            "is_fresh": self.is_fresh,
            "delivered": set(self.delivered),
            "listed": set(self.listed),
            "keyspace": self.keyspace,
        }

    def crash(self) -> None:
        self.view.crash()
        now = self.keys.now_ms
        self.keys = self.make(self.view)
        self.keys.now_ms = now
        saved = self.saved
        self.history = defaultdict(set, {key: set(one) for key, one in saved["history"].items()})
        self.confirmed, self.facts = set(saved["confirmed"]), dict(saved["facts"])
        # Only what the hub had not taken in the meantime is still to be sent; the lane is durable.
        self.lane = [one for one in saved["lane"] if one in self.lane]
        self.base, self.position, self.made = saved["base"], saved["position"], saved["made"]
        self.is_fresh, self.delivered = saved["is_fresh"], set(saved["delivered"])
        self.keyspace, self.listed = saved["keyspace"], set(saved["listed"])
        self.request = None


class World:
    def __init__(
        self,
        seed: int,
        *,
        edges: int | None = None,
        losing: bool = False,
        make_edge: Callable[[MemoryView], EdgeKeys] = EdgeKeys,
        make_hub: Callable[[MemoryView], HubKeys] = HubKeys,
    ) -> None:
        self.losing = losing
        self.random = Random(seed)
        self.evicting = Random(seed)  # of its own: what else happens stays the same
        self.splits = Random(seed)
        self.make_hub = make_hub
        self.view = MemoryView()
        self.hub = make_hub(self.view)
        self.history: History = defaultdict(set)
        self.now_ms = 1_700_000_000_000
        self.replicas: dict[int, int] = {}
        self.acked: dict[int, int] = defaultdict(int)  # by edge: what the lane has brought
        self.bases: dict[int, int] = {}  # by replica, what it confirmed
        self.collected = 0
        self.collected_before: dict[int, int] = {}  # by replica, when it was named
        self.air: list[Request | Reply] = []
        self.keyspace = 0
        self.known: dict[int, int] = {}  # operations carried out here, by replica
        self.holes: dict[int, tuple[int, int]] = {}  # … but for those between
        self.named: set[int] = set()
        self.backup: dict[str, Any] = {}
        count = edges or self.random.choice((2, 3, 3))
        self.edges = [Edge(number, make_edge) for number in range(1, count + 1)]
        self.next_r = 1
        for edge in self.edges:
            self.admit(edge)
            edge.keys.rejoin(self.replicas[edge.number])
            edge.commit()
        self.wanted = 0.5  # of what is evicted, by each request
        self.page_limit = self.random.choice((1, 1, 2, 100))
        # Few cells meet often, many seldom: both find what the other does not.
        self.keys = self.random.sample(KEYS, self.random.choice((2, 3)))
        self.names = self.random.sample(NAMES, self.random.choice((1, 2, 2, 6)))
        self.kinds = self.random.choice((
            (VALUE, VALUE, AMOUNT, AMOUNT, TOMB, "delete"),
            (VALUE, AMOUNT, AMOUNT, AMOUNT, AMOUNT, TOMB),
        ))  # fmt: skip

    # -- steps -----------------------------------------------------------------------------------

    def step(self) -> None:
        self.now_ms += self.random.randrange(3)
        actions = (
            (30, self.write_at_edge), (8, self.write_at_hub), (10, self.send_operations),
            (10, self.hear_operations), (24, self.exchange), (6, self.ask), (6, self.move_message),
            (4, self.collect), (2, self.crash_edge), (2, self.step_clock),
        )  # fmt: skip
        if self.losing:
            # Not with edges that are given up: who has had two names may be counted twice.
            last = ((2, self.back_up), (2, self.lose_hub))
        else:
            last = ((1, self.retire), (0, self.lose_hub))
        weights = [weight for weight, _ in actions + last]
        self.random.choices([act for _, act in actions + last], weights)[0]()
        if self.evicting.random() < 0.5:
            self.evict(self.evicting.choice(self.edges))
        self.check()

    def evict(self, edge: Edge) -> None:
        """An edge leaves values to the hub, of keys of which it may."""
        if self.losing:
            return  # they are lost with it
        for key in self.keys:
            edge.keys.evict_key(key)
        if self.evicting.random() < 0.8:
            edge.commit()

    def request_of(self, edge: Edge) -> Request:
        request = Request(edge, edge.base == 0)
        request.wants = [
            key for key in self.keys
            if self.evicting.random() < self.wanted and edge.keys.is_evicted(key)
        ]  # fmt: skip
        return request

    def write_at_edge(self) -> None:
        edge = self.random.choice(self.edges)
        for _ in range(self.random.choice((1, 1, 1, 3))):
            self.edit(edge.keys, edge.history, edge.number, edge)
            if self.random.random() < 0.8:
                edge.commit()

    def write_at_hub(self) -> None:
        self.hub.now_ms = self.now_ms
        self.edit(self.hub, self.history, 0, None)
        self.hub.save_counters()

    def edit(
        self, space: EdgeKeys | HubKeys, history: History, writer: int, edge: Edge | None
    ) -> None:
        key, name = self.random.choice(self.keys), self.random.choice(self.names)
        if edge is not None:
            space.now_ms = max(self.now_ms + getattr(edge, "skew", 0), 0)
        kind = self.random.choice(self.kinds)
        payload = b"%d" % self.random.randrange(-5, 20)
        own = {fact for fact in history[key] if fact.writer == writer}
        hub = history[key] if edge is None else edge.shown(key)
        before = space.n
        merged: list[Fact] = []
        if kind == "delete":
            space.delete(key)
            if space.n == before:  # nothing is there, or nothing that anybody else ever heard of
                history[key] = {one for one in history[key] if one in self.history[key]}
                return
            name, kind, payload = b"", TOMB, b""
        elif kind == TOMB:
            if not space.has(key, name):
                return
            space.remove(key, name)
            if space.n == before:  # a cell nobody else ever heard of; perhaps it was the last
                gone = (name,) if space.type_of(key) else (name, b"t")
                history[key] = {
                    one for one in history[key]
                    if one in self.history[key] or one.name not in gone
                }  # fmt: skip
                return
            payload = b""
        elif kind == AMOUNT:
            if name == b"t":
                return
            if edge is not None:
                merged = self.merged_with(edge, key, name)
            space.add(key, name, payload)
            total = sum(int(one.payload) for one in merged) + int(payload)
            payload = b"%d" % total
        else:
            if name == b"t":
                payload = (self.now_ms + 10**9 + self.random.randrange(9)).to_bytes(8, "big")
            elif int(payload) % 4:
                payload = b"%024d" % int(payload)  # such as may be evicted
            space.put(key, name, payload)
        # Facts that go as one with this are one fact, known to whoever knew them.
        history[key] -= set(merged)
        fact = Fact(
            writer, space.n, key, name, int(kind), payload, space.clock.last, space.r,
            frozenset(own - set(merged)), frozenset(hub),
        )  # fmt: skip
        history[key].add(fact)
        made = [fact]
        if kind == TOMB and name and space.n == before + 2:
            # The key is gone with its last cell; what came with it is the removal of its deadline.
            fact.n, fact.hlc = space.n - 1, fact.hlc - 1
            seen = frozenset(fact.own | {fact})
            made.append(
                Fact(writer, space.n, key, b"t", TOMB, b"", fact.hlc + 1, space.r, seen, fact.hub)
            )
            history[key].add(made[1])
        for one in made:
            if edge is None:
                one.hub_hlc, one.hub_r = one.hlc, space.r
            elif space.n != before:
                edge.facts[one.n] = [one]

    def merged_with(self, edge: Edge, key: bytes, name: bytes) -> list[Fact]:
        """The amount that has not been sent and will go together with the next one."""
        numbers = [
            dot.n
            for dot in edge.keys.siblings(key, name)
            if dot.pending and dot.kind == AMOUNT and dot.n > max(edge.keys.sent, edge.keys.sealed)
        ]
        return [fact for n in numbers for fact in edge.facts.get(n, [])]

    def send_operations(self) -> None:
        self.send(self.random.choice(self.edges), self.random.choice((1, 3, 100)))

    def send(self, edge: Edge, limit: int) -> None:
        """Move operations to the lane: one transaction, as in the store."""
        for op in edge.keys.take(limit=limit):
            edge.lane.append((edge.keys.taken_as, op, edge.facts.get(op.n, [])))
        edge.commit()

    def hear_operations(self) -> None:
        edge = self.random.choice(self.edges)
        # Only what is on the edge's disk is on the line.
        ready = [one for one in edge.lane if one in edge.saved["lane"]]
        if edge.keyspace != self.keyspace:
            return  # what it had seen comes with all it has, see `tell_all`
        for one in ready[: self.random.choice((1, 2, 100))]:
            self.hear(edge, one)

    def hear(self, edge: Edge, one: tuple[int, Op, list[Fact]]) -> None:
        edge.lane.remove(one)
        edge.told.append(one)
        written_as, op, facts = one
        r = self.replicas.get(edge.number) or self.admit(edge, written_as)
        # It keeps the name under which it was made, if that was one of its own.
        is_earlier = written_as not in (0, r) and written_as < UNNAMED
        if is_earlier:
            self.acked[edge.number] = max(self.acked[edge.number], op.n)
        if not self.is_new(r, op.n) or (is_earlier and not self.is_new(written_as, op.n)):
            return
        self.hub.now_ms = self.now_ms
        is_known = written_as == r and edge.keyspace == self.keyspace
        # What was collected before it came (back), nobody could wait for it to learn.
        is_late = not is_known or op.q < self.collected_before[r]
        forgotten = self.forgotten(op) if is_late else frozenset()
        name = written_as if is_earlier else r
        self.hub.hear(name, op, is_known=is_known)
        self.hub.save_counters()
        if is_earlier:
            self.known[name] = max(self.known.get(name, 0), op.n)
            self.named.add(name)
        else:
            self.note_heard(edge, r, op.n)
        if edge.keys.r != r:
            # It has been given up and does not know yet: what it shows is right for it alone.
            edge.is_fresh = edge.saved["is_fresh"] = True
        for fact in facts:
            fact.hub_r = name
            limit = (self.now_ms + self.hub.ahead_ms_max) << 16
            fact.hub_hlc = self.now_ms << 16 if fact.hlc > limit else fact.hlc
            # What it had seen of a hub that is lost, its edge will tell, and that it is gone.
            is_lost = edge.keyspace != self.keyspace
            fact.hub = (fact.hub if is_known or is_lost else frozenset()) | forgotten
            self.history[fact.key].add(fact)

    def forgotten(self, op: Op) -> frozenset[Fact]:
        """Removals collected since: nobody waited for the edge that did not know of them."""
        dots = self.hub.tombs_of(op.key)
        if op.name:
            dots = self.hub.siblings(op.key, op.name) or dots
        else:
            dots += [dot for name in NAMES for dot in self.hub.siblings(op.key, name)]
        kept = {(dot.r, dot.n) for dot in dots}
        here = (op.name, b"") if op.name else (*NAMES, b"")
        tombs = {
            fact for fact in self.history[op.key] if fact.kind == TOMB and fact.name in here
        }  # fmt: skip
        return frozenset(fact for fact in tombs if (fact.hub_r, fact.n) not in kept)

    def admit(self, edge: Edge, r: int = 0) -> int:
        """Name a replica: new ones, and those that come back after they were given up.

        Who was named by a hub that is lost stays what it was.
        """
        if not r or r in self.named:
            r, self.next_r = self.next_r, self.next_r + 1
        self.replicas[edge.number] = r
        self.named.add(r)
        self.acked[edge.number] = max(self.acked[edge.number], self.known.get(r, 0))
        self.bases[r], self.collected_before[r] = 0, self.collected
        return r

    def ask(self) -> None:
        edge = self.random.choice(self.edges)
        if edge.request is not None and self.random.random() < 0.7:
            return
        edge.request = self.request_of(edge)
        self.air.append(edge.request)

    def exchange(self) -> None:
        """Go through a whole round, as on a good line; the answer may still be lost."""
        edge = self.random.choice(self.edges)
        edge.commit()
        if self.random.random() < 0.8:
            self.send(edge, 100)
            for one in list(edge.lane) if edge.keyspace == self.keyspace else []:
                self.hear(edge, one)
        request = edge.request = self.request_of(edge)
        self.answer(request)
        reply = self.air[-1]
        assert isinstance(reply, Reply)
        if self.random.random() < 0.75:
            self.air.remove(reply)
            self.take_in(reply)
        if self.random.random() < 0.5:
            self.collect()

    def move_message(self) -> None:
        """One message arrives; or is lost, or stays in the air to arrive once more."""
        if not self.air:
            return
        message = self.random.choice(self.air)
        if self.random.random() < 0.85:
            self.air.remove(message)
        if self.random.random() < 0.2:
            return
        if isinstance(message, Request):
            self.answer(message)
        elif not self.begin(message):
            self.take_in(message)

    def answer(self, request: Request) -> None:
        edge = request.edge
        r = self.replicas.get(edge.number) or self.admit(
            edge, request.r if request.keyspace != self.keyspace else 0
        )
        reply = Reply(request)
        reply.r, reply.keyspace, reply.seen = r, self.keyspace, self.knowledge()
        if request.r == r and request.keyspace == self.keyspace:
            if self.acked[edge.number] >= request.made:
                self.confirm(r, request)
            reply.entries, reply.position, reply.is_all = self.page(request)
            reply.entries += self.wanted_by(request)
            reply.acked, reply.stable = self.acked[edge.number], self.collected
        reply.histories = {one.key: set(self.history[one.key]) for one in reply.entries}
        self.air.append(reply)

    def confirm(self, r: int, request: Request) -> None:
        self.bases[r] = request.base

    def page(self, request: Request) -> tuple[list[Entry], int, bool]:
        return self.hub.page(request.base, request.after, self.page_limit)

    def wanted_by(self, request: Request) -> list[Entry]:
        return self.hub.whole(request.wants)

    def take_in(self, reply: Reply) -> None:
        edge, request = reply.request.edge, reply.request
        if edge.request is not request:
            return
        edge.request = None
        if reply.keyspace != edge.keyspace:
            if reply.keyspace == self.keyspace:
                self.tell_all(edge, reply.r)
            return
        if reply.r != edge.keys.r:
            self.rejoin(edge, reply.r)
            return
        self.deliver(edge, reply, reply.entries)
        edge.position = reply.position
        if reply.is_all:
            if request.whole:
                edge.keys.forget_unlisted(reply.acked)
                for key in set(edge.history) - edge.listed:
                    edge.history[key] = edge.unheard(key, reply.acked)
                # A page from before it was given up is none of what the hub knows it by now.
                edge.is_fresh = self.replicas.get(edge.number, reply.r) != reply.r
            edge.base, edge.made = edge.position, edge.keys.n
            edge.listed = set()
            edge.keys.note_seen(reply.seen)
        edge.keys.settle(reply.stable)
        edge.commit()

    def begin(self, reply: Reply) -> bool:
        """Now and then deliver some keys of a page, and let others work before the rest."""
        edge, request = reply.request.edge, reply.request
        is_taken = edge.request is request and reply.keyspace == edge.keyspace
        if not is_taken or reply.r != edge.keys.r or len(reply.entries) < 2:
            return False
        if reply.is_begun or self.splits.random() < 0.7:
            return False
        reply.is_begun = True
        self.deliver(edge, reply, reply.entries[: self.splits.randrange(1, len(reply.entries))])
        self.air.append(reply)
        return True

    def deliver(self, edge: Edge, reply: Reply, entries: list[Entry]) -> None:
        edge.keys.deliver(entries, reply.acked)
        for key in {one.key for one in entries}:
            if reply.request.whole:
                edge.history[key] = edge.unheard(key, reply.acked)
                edge.listed.add(key)
            edge.history[key] |= reply.histories[key]
            edge.confirmed |= reply.histories[key]
            edge.delivered.add(key)

    def rejoin(self, edge: Edge, r: int) -> None:
        edge.keys.rejoin(r)
        edge.base = edge.position = 0
        edge.listed = set()
        edge.delivered = set()
        edge.is_fresh = True
        if edge.keyspace != self.keyspace:
            edge.keyspace = self.keyspace
            return
        # What the hub has not heard counts as written without having seen anything.
        for facts in edge.facts.values():
            for fact in facts:
                if fact.hub_r is None:
                    fact.hub = frozenset()
        edge.commit()

    # -- hubs that are lost ----------------------------------------------------------------------

    def is_new(self, r: int, n: int) -> bool:
        low, high = self.holes.get(r, (0, 0))
        return n > self.known.get(r, 0) or low <= n < high

    def note_heard(self, edge: Edge, r: int, n: int) -> None:
        known = self.known.get(r, 0)
        if n > known + 1 and edge.keyspace != self.keyspace:
            self.holes[r] = (min(known + 1, self.holes.get(r, (known + 1,))[0]), n)
        self.known[r] = self.acked[edge.number] = max(n, known)

    def knows(self, r: int, n: int) -> bool | None:
        if r == self.hub.r:
            return n <= self.hub.n
        low, high = self.holes.get(r, (0, 0))
        return None if low <= n < high else n <= self.known.get(r, 0)

    def knowledge(self) -> dict[int, int]:
        sound = {r: min(n, self.holes.get(r, (n + 1, 0))[0] - 1) for r, n in self.known.items()}
        return {**sound, self.hub.r: self.hub.n}

    def back_up(self) -> None:
        self.backup = {
            "rows": self.view.rows(),
            "history": {key: set(one) for key, one in self.history.items()},
            "replicas": dict(self.replicas), "acked": dict(self.acked), "named": set(self.named),
            "known": {**self.known, self.hub.r: self.hub.n}, "holes": dict(self.holes),
        }  # fmt: skip

    def lose_hub(self) -> None:
        """The hub comes back empty, or as it was when it was last copied."""
        for edge in self.edges:  # in the midst of a pass an edge cannot say what it has seen
            edge.commit()
            is_over = False
            while not is_over:
                edge.request = self.request_of(edge)
                self.answer(edge.request)
                reply = self.air.pop()
                assert isinstance(reply, Reply)
                is_over = reply.is_all and reply.r == edge.keys.r
                self.take_in(reply)
        saved = self.backup if self.random.random() < 0.7 else {}
        self.view = MemoryView()
        for row, raw in saved.get("rows", {}).items():
            self.view.put(row, raw)
        self.hub = self.make_hub(self.view)
        self.hub.now_ms = self.now_ms
        self.keyspace += 1
        self.hub.call_yourself((1 << 30) + self.keyspace)
        self.hub.save_counters()
        self.history = defaultdict(
            set, {key: set(one) for key, one in saved.get("history", {}).items()}
        )
        self.replicas, self.named = dict(saved.get("replicas", {})), set(saved.get("named", ()))
        self.acked = defaultdict(int, saved.get("acked", {}))
        self.known, self.holes = dict(saved.get("known", {})), dict(saved.get("holes", {}))
        self.collected, self.bases = 0, dict.fromkeys(self.replicas.values(), 0)
        self.collected_before = dict.fromkeys(self.replicas.values(), 0)
        self.air.clear()
        for edge in self.edges:
            edge.request = None
            # What is retained is sent again; the rest is gone from the lane.
            retained = self.random.choice((0, 1, 3, 1000))
            heard = self.acked[edge.number]
            again = [one for one in edge.told if one[1].n > heard]
            edge.lane = again[max(0, len(again) - retained) :] + edge.lane
            edge.told = [one for one in edge.told if one not in again]
            edge.commit()

    def tell_all(self, edge: Edge, r: int) -> None:
        """Tell the hub all an edge has: its operations, and what it knows of those of others."""
        edge.commit()
        for one in list(edge.lane):
            self.hear(edge, one)
        for op in edge.keys.take(100_000, again=0):
            self.hear_again(edge, r, op)
        for _ in range(self.random.choice((1, 1, 2))):
            self.restore(edge)
        for key, facts in edge.history.items():
            self.history[key] |= {fact for fact in facts if fact.hub_r is not None}
        self.known[r] = self.acked[edge.number] = max(self.known.get(r, 0), edge.keys.sent)
        self.holes.pop(r, None)
        for other, n in edge.keys.seen().items():
            self.known[other] = max(self.known.get(other, 0), n)
            if other in self.holes and self.holes[other][1] <= n + 1:
                del self.holes[other]
            elif other in self.holes:
                self.holes[other] = (max(self.holes[other][0], n + 1), self.holes[other][1])
        self.rejoin(edge, r)
        # What was not sent has taken the place of what it had seen, and follows at once.
        while edge.keys.sent < edge.keys.n and edge.keys.pending:
            before = edge.keys.sent
            self.send(edge, 100_000)
            if edge.keys.sent == before:
                break
        for one in list(edge.lane):
            self.hear(edge, one)
        self.forget_removals()

    def hear_again(self, edge: Edge, r: int, op: Op) -> None:
        if self.is_new(r, op.n):
            edge.lane.insert(0, (r, op, edge.facts.get(op.n, [])))
            self.hear(edge, edge.lane[0])

    def seen_by(self, edge: Edge) -> dict[int, int]:
        return edge.keys.seen()

    def restore(self, edge: Edge) -> None:
        seen, after = self.seen_by(edge), None
        self.hub.now_ms = self.now_ms
        while True:
            entries, until = edge.keys.held(after, self.random.choice((1, 2, 100)))
            listed = {one.key for one in entries}
            for name in self.hub.names(after, limit=1000):
                if name not in listed and (until is None or name <= until):
                    self.hub.restore(Entry(name, 0, True, [], []), seen, self.knows)
            for one in entries:
                self.hub.restore(one, seen if one.is_whole else {}, self.knows)
            if until is None:
                break
            after = until
        self.hub.save_counters()

    def forget_removals(self) -> None:
        """Removals live on in what edges have seen, not beside what was written without them."""
        for key, facts in self.history.items():
            dots = self.hub.tombs_of(key) + [
                dot for name in NAMES for dot in self.hub.siblings(key, name)
            ]
            kept = {(dot.r, dot.n) for dot in dots}
            gone = [one for one in facts if one.kind == TOMB and (one.hub_r, one.n) not in kept]
            for fact in facts:
                fact.hub |= {one for one in gone if one is not fact and fact not in one.seen}
        for edge in self.edges:
            edge.is_fresh |= edge.keyspace != self.keyspace
        self.collected_before = dict.fromkeys(self.collected_before, self.hub.seq)

    def collect(self) -> None:
        stable = self.stable()
        if stable > self.collected:
            self.hub.collect(self.collected, stable)
            self.hub.save_counters()
            self.collected = stable

    def stable(self) -> int:
        return min((self.bases[r] for r in self.replicas.values()), default=self.hub.seq)

    def crash_edge(self) -> None:
        self.random.choice(self.edges).crash()

    def step_clock(self) -> None:
        edge = self.random.choice(self.edges)
        edge.skew = self.random.choice((0, -(10**9), 3000, 86_400_000))  # type: ignore[attr-defined]

    def retire(self) -> None:
        """Give an edge up: nothing waits for it any more; it may come back all the same."""
        if self.random.random() < 0.3:
            self.replicas.pop(self.random.choice(self.edges).number, None)

    # -- checks ----------------------------------------------------------------------------------

    def check(self) -> None:
        for key in self.keys:
            self.compare("hub", self.hub, key, self.history[key], None)
            for edge in self.edges:
                if not edge.is_fresh and not self.is_renamed(edge):
                    name = f"edge {edge.number}"
                    self.compare(name, edge.keys, key, edge.history[key], edge.confirmed)

    def is_renamed(self, edge: Edge) -> bool:
        """Whether the hub may not have yet what it wrote under another name.

        What follows that was written beside it, as far as the hub can know; the edge knows better.
        """
        told = (fact for facts in edge.facts.values() for fact in facts)
        return any(one.r != edge.keys.r and one not in edge.confirmed for one in told)

    def compare(
        self,
        who: str,
        space: EdgeKeys | HubKeys,
        key: bytes,
        history: set[Fact],
        confirmed: set[Fact] | None,
    ) -> None:
        for name in self.names:
            dots = space.siblings(key, name)
            if name == b"t":
                self.same(who, key, name, 0, longest(dots), deadline_of(history))
                continue
            # Which of siblings ranks highest is known of those that a lost hub left: no removals.
            for strategy in Strategy if not self.losing else (Strategy.CRDT_MERGE,):
                found = cells.read(filled(dots, name, history), strategy) if dots else None
                meant = value_of(history, name, strategy, confirmed)
                self.same(who, key, name, strategy, found, meant)

    def same(
        self, who: str, key: bytes, name: bytes, strategy: int, found: object, meant: object
    ) -> None:
        if found != meant:
            raise Diverged(f"{who} {key!r} {name!r} strategy {strategy}: {found!r}, not {meant!r}")

    # -- quiet -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything arrive, then everybody shows the same."""
        for edge in self.edges:
            edge.commit()
        self.wanted = 1.0
        for rest in reversed(range(8)):
            for edge in self.edges:
                if rest > 1:
                    self.evict(edge)
                self.send(edge, 1000)
                for one in list(edge.lane) if edge.keyspace == self.keyspace else []:
                    self.hear(edge, one)
                for _ in range(100):
                    edge.request = self.request_of(edge)
                    self.answer(edge.request)
                    reply = self.air.pop()
                    assert isinstance(reply, Reply)
                    self.take_in(reply)
                    if reply.is_all and reply.r == reply.request.r:
                        break
            if rest == 0:
                self.check_digests()
            self.collect()
            self.check()
        for edge in self.edges:
            assert edge.keys.pending == 0
            for key in self.keys:
                if edge.keys.is_evicted(key):
                    raise Diverged(f"edge {edge.number} asked for {key!r} and did not get it back")
                self.compare(
                    f"edge {edge.number} at the end", edge.keys, key, self.history[key], None
                )

    def check_digests(self) -> None:
        """Who has all pages has the hub's digest, however it is cut."""
        meant = digest_of(self.hub, 0, self.random.randrange(1, 20))
        for edge in self.edges:
            found = digest_of(edge.keys, None, self.random.randrange(1, 20))
            if found != meant:
                raise Diverged(f"edge {edge.number} has other keys than the hub by their digest")

    def check_counts(self) -> None:
        """The bytes counted as they came and went are those that are there."""
        for space in (self.hub, *(edge.keys for edge in self.edges)):
            assert space.data == space.weigh()


def digest_of(space: Any, after: Any, limit: int) -> int:
    total = 0
    while True:
        part, after = space.digest(after, limit)
        total += part
        if after is None:
            return int(total % (1 << 64))


def filled(dots: list[Dot], name: bytes, history: set[Fact]) -> list[Dot]:
    """A cell with the values that were evicted, as the full history has them."""
    written = {(fact.hub_r, fact.n): fact.payload for fact in history if fact.name == name}
    return [dot.with_payload(written[dot.r, dot.n]) if dot.evicted else dot for dot in dots]


def longest(dots: list[Dot]) -> bytes | None:
    return max((dot.payload for dot in dots if dot.kind == VALUE), default=None)


def run(world: World, steps: int = 40) -> None:
    for _ in range(steps):
        world.step()
    world.settle()
