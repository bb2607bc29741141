"""Chains that the hub has assigned to this edge: taken, checked, run, and told of.

A bundle comes on the hub's lane in parts, which are on disk when they are acknowledged. Once it is
whole it is read as files are, and only then its chains take over, between two messages. One that
cannot run is kept and refused with every reason, and the chains before go on, over a restart too.
`[rules] chains` of the settings counts before what the hub assigns: a site decides for itself.

The hub is told what is held and what runs whenever that changes, with each start, and when either
side was restored; while a session lasts it is told once a minute what nodes have counted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.errors import ConfigError, ConfigErrors, RecordError, StoreError
from edgesync.model import Action, EntityType, Event, EventType, Lane, RecordKind
from edgesync.parts.part import Context, Part
from edgesync.rules.bundle import parse_piece, unpack
from edgesync_transport.seldom import Seldom

if TYPE_CHECKING:
    from edgesync.parts.link import LinkPart
    from edgesync.rules.engine import NodeCount
    from edgesync.rules.files import Rules
    from edgesync.rules.part import RulesPart
    from edgesync.status import RulesStatus

log = logging.getLogger(__name__)

DATABASE: Final = "chains"
WANTED: Final = b"wanted"
STANDING: Final = b"standing"
PIECE: Final = b"piece "
TOLD_EVERY_S: Final = 60.0
RETRY_S: Final = 1.0
REASONS_MAX: Final = 50
REASON_CHARS_MAX: Final = 500
# Nodes that the hub is told of, and in one event (I7).
NODES_MAX: Final = 2000
NODES_TOGETHER: Final = 100


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The bundles of the hub that are here, by digest; "" is none.

    held      what the hub assigned last, as far as it came whole
    running   what was good last, and runs unless the settings name chains
    refused   why `held` does not run, if so
    """

    held: str = ""
    running: str = ""
    bundle: str = ""
    version: int = 0
    since_ns: int = 0
    refused: tuple[str, ...] = ()


class AssignedPart(Part):
    """See the module. It handles what the hub sends (`edgesync.sync.inbound.Handler`)."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.standing = Standing()
        self.is_local = bool(context.settings.rules.chains)
        self._news = trio.Event()
        self._settling = ""  # what is taken over now, or was last
        self._told = b""  # the standing as the hub was told last, in this life
        self._must_tell = False
        self._counted: _Told | None = None
        self._seldom = Seldom()

    def open(self) -> None:
        link: LinkPart = self.context.parts.get("link")
        link.handlers[EventType.RULES] = self
        link.restored.append(self.tell_again)
        raw = self._get(STANDING)
        self.standing = Standing() if raw is None else msgspec.json.decode(raw, type=Standing)
        if self.is_local:
            return
        wanted, running, rules = self._wanted(), self.standing.running, None
        if wanted and (packed := self._packed(wanted)) is not None:
            self.standing, rules = self._read(wanted, packed)
            self._keep_standing(raw)
        if rules is None and running != wanted and (packed := self._packed(running)) is not None:
            _, rules = self._read(running, packed)
        if rules is not None:
            self._rules_part().take(rules)

    def _keep_standing(self, known: bytes | None) -> None:
        """Store what was taken over at the start, after a kill, before anything else comes."""
        raw = msgspec.json.encode(self.standing)
        if raw == known:
            return
        write = Write()
        write.put(DATABASE, STANDING, raw, essential=True)
        try:
            self.context.recorder.store.submit_sync(write)
        except StoreError as error:  # it is taken over again at the next start: I8
            log.error("rules: what runs is not stored: %s", error)

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            try:
                await self._settle()
                await self._try_to_tell()
            except StoreError as error:  # a full store, for now: I8
                self.tell_again()
                if (again := self._seldom.ask("store")) is not None:
                    told = "rules: what the hub is to know of chains waits: %s; %d more before"
                    log.error(told, error, again)
                await trio.sleep(RETRY_S)
                continue
            with trio.move_on_after(TOLD_EVERY_S):
                await self._news.wait()

    # -- from the hub ----------------------------------------------------------------------------

    def stage(self, write: Write, event: Event) -> Callable[[], None]:
        piece = parse_piece(event.body)
        if piece.digest:
            write.put(DATABASE, _piece_key(piece.digest, piece.nth), piece.data, essential=True)
        if piece.is_last:
            wanted = f"{piece.digest} {piece.count}".encode()
            write.put(DATABASE, WANTED, wanted, essential=True)
        now = self.standing
        kept = {piece.digest, self._wanted(), self._settling, now.held, now.running}
        self._drop(write, lambda digest: digest not in kept)
        return self.tell_again if piece.is_last else _nothing

    async def _settle(self) -> None:
        """Take over what the hub wants, or refuse it; on disk when this returns."""
        self._news = trio.Event()
        wanted = self._wanted()
        if wanted == self.standing.held:
            return
        self._settling, rules = wanted, None
        if wanted and not self.is_local:
            packed = self._packed(wanted)
            if packed is None:  # the hub is told what is held instead, and sends it once more
                return
            standing, rules = await trio.to_thread.run_sync(self._read, wanted, packed)
        else:
            standing = Standing(held=wanted, since_ns=self.context.wall_ns())
        write = Write()
        write.put(DATABASE, STANDING, msgspec.json.encode(standing), essential=True)
        # Not all others: parts of a newer one may have come meanwhile.
        gone = {self.standing.held, self.standing.running} - {standing.held, standing.running}
        self._drop(write, gone.__contains__)
        await self.context.recorder.store.submit(write)
        is_running = self.context.parts.find("rules") is not None
        if not (self.is_local or standing.refused) and (rules is not None or is_running):
            await self._rules_part().swap(rules)
        self.standing = standing

    def _read(self, digest: str, packed: bytes) -> "tuple[Standing, Rules | None]":
        """Read what the hub wants; returns what stands then, and its chains if they run."""
        from edgesync.rules.files import rules_of

        before = self.standing
        try:
            bundle = unpack(packed)
            if bundle.digest() != digest:
                raise RecordError("the bundle is not what its digest says")
            rules = rules_of(bundle.contents(), root=bundle.root)
        except (ConfigError, RecordError) as error:
            mistakes = error.mistakes if isinstance(error, ConfigErrors) else (error,)
            return _refused(before, digest, [str(one) for one in mistakes])
        except Exception as error:  # A bug of ours costs this bundle, not the site: I8.
            log.exception("rules: the hub's chains cannot be read: digest=%s", digest)
            return _refused(before, digest, [f"the edge failed: {error!r}"])
        if digest == before.running:
            return msgspec.structs.replace(before, held=digest, refused=()), rules
        return Standing(
            held=digest, running=digest, bundle=bundle.name, version=bundle.version,
            since_ns=self.context.wall_ns(),
        ), rules  # fmt: skip

    def _packed(self, digest: str) -> bytes | None:
        """Return a bundle that came whole; None while parts of it are missing."""
        _, _, count = (self._get(WANTED) or b"").decode().partition(" ")
        rows = self.context.recorder.store.store.scan(
            DATABASE, _piece_key(digest, 0), _piece_key(digest, 0xFFFF)
        )
        if not rows or (digest == self._wanted() and len(rows) < int(count or 0)):
            return None
        return b"".join(data for _, data in rows)

    def _wanted(self) -> str:
        return (self._get(WANTED) or b"").decode().partition(" ")[0]

    def _get(self, key: bytes) -> bytes | None:
        return self.context.recorder.store.store.get(DATABASE, key)

    def _drop(self, write: Write, is_lost: Callable[[str], bool]) -> None:
        """Forget the parts of bundles, by digest."""
        for key, _ in self.context.recorder.store.store.scan(DATABASE, PIECE, PIECE + b"\xff"):
            if is_lost(_digest_in(key)):
                write.delete(DATABASE, key)

    def _rules_part(self) -> "RulesPart":
        part: RulesPart = self.context.parts.get("rules")
        return part

    # -- to the hub ------------------------------------------------------------------------------

    def tell_again(self) -> None:
        """Tell the hub all there is, whatever it was told before: one side was restored."""
        self._must_tell, self._told, self._counted = True, b"", None
        self._news.set()

    async def _try_to_tell(self) -> None:
        """Tell; a bug of ours there costs the hub what it would know, not the site (I8)."""
        try:
            await self._tell()
        except StoreError:
            raise
        except Exception:
            log.exception("rules: the hub is not told of chains")

    async def _tell(self) -> None:
        body = msgspec.json.encode(self._facts())
        is_nothing = not (self.is_local or self.standing.held or self.standing.running)
        if body != self._told and (self._told or self._must_tell or not is_nothing):
            self._told, self._must_tell = body, False
            await self._append(Action.NONE, [body])
        await self._tell_counts()

    def _facts(self) -> dict[str, Any]:
        rules: RulesPart | None = self.context.parts.find("rules")
        status: RulesStatus | None = None if rules is None else rules.status()["rules"]
        is_running = status is not None and bool(status.chains)
        source = "none" if not is_running else "local" if self.is_local else "hub"
        return {
            "source": source,
            **msgspec.to_builtins(self.standing),
            "is_local": self.is_local,
            "root": status.root if status else "",
            "chains": status.chains[:100] if status else (),
            "problem": status.problem[:REASON_CHARS_MAX] if status else "",
        }

    async def _tell_counts(self) -> None:
        """Tell what nodes have counted; cumulative, so what is not told now is with the next."""
        link: LinkPart = self.context.parts.get("link")
        rules: RulesPart | None = self.context.parts.find("rules")
        epoch = link.driver.epoch if link.driver is not None else 0
        if rules is None or not epoch:
            return
        told = self._counted
        counts = dict(list(rules.counts().items())[:NODES_MAX])
        if told is None or (told.epoch, list(told.counts)) != (epoch, list(counts)):
            life = self.context.wall_ns()
            bodies = [
                msgspec.json.encode({"life": life, "first": at, "nodes": rows})
                for at, rows in _together([_whole(key, one) for key, one in counts.items()])
            ]
        else:
            life = told.life
            changed = [
                [at, one.messages, one.failures, one.last_error, one.last_error_ns]
                for at, (key, one) in enumerate(counts.items())
                if told.counts[key] != (one.messages, one.failures)
            ]
            bodies = [
                msgspec.json.encode({"life": life, "changed": rows})
                for _, rows in _together(changed)
                if rows
            ]
        now = {key: (one.messages, one.failures) for key, one in counts.items()}
        self._counted = _Told(epoch, life, now)
        if bodies:
            await self._append(Action.UPDATED, bodies)

    async def _append(self, action: Action, bodies: list[bytes]) -> None:
        """Store what is told. What was told is noted before this waits: it may change meanwhile."""
        write, now_ns = Write(), self.context.wall_ns()
        edge = self.context.settings.edge.name
        for body in bodies:
            raw = event_codec.encode(
                EventType.RULES, action, EntityType.EDGE, edge, body, now_ns, now_ns, 0
            )
            write.append(Lane.NORMAL, RecordKind.EVENT, raw)
        recorder = self.context.recorder
        recorder.note_grown(await recorder.store.submit(write))


class _Told(msgspec.Struct, frozen=True):
    """Counts of nodes as the hub was told them; `life` says which nodes their numbers mean."""

    epoch: int
    life: int
    counts: Mapping[str, tuple[int, int]]


def _refused(before: Standing, digest: str, problems: Sequence[str]) -> tuple[Standing, None]:
    """Return what stands when a bundle cannot run; no reason has what JSON cannot carry."""
    reasons = tuple(
        one[:REASON_CHARS_MAX].encode(errors="backslashreplace").decode()
        for one in problems[:REASONS_MAX]
    )
    log.error("rules: the hub's chains are refused: %s", "; ".join(reasons))
    return msgspec.structs.replace(before, held=digest, refused=reasons), None


def _nothing() -> None:
    """Do nothing after the commit of a part that is not the last."""


def _whole(key: str, one: "NodeCount") -> list[object]:
    return [
        one.chain, key.partition("\0")[2], one.node, one.type, one.messages, one.failures,
        one.last_error, one.last_error_ns,
    ]  # fmt: skip


def _together(rows: list[list[object]]) -> list[tuple[int, list[list[object]]]]:
    """Return rows by the event that tells them, each with the place of the first; at least one."""
    starts = range(0, len(rows), NODES_TOGETHER) or (0,)
    return [(at, rows[at : at + NODES_TOGETHER]) for at in starts]


def _piece_key(digest: str, nth: int) -> bytes:
    return PIECE + digest.encode() + nth.to_bytes(2, "big")


def _digest_in(key: bytes) -> str:
    return key[len(PIECE) : -2].decode()
