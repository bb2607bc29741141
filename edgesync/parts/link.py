"""The link of a node: connects to the hub, sends what is stored, and records what it learns."""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync import __version__
from edgesync import settings as settings_module
from edgesync._native.write import Write
from edgesync.bounds import FLAPPING_S
from edgesync.cells import DATABASE as CELLS
from edgesync.errors import ConfigError, StoreError
from edgesync.model import Lane
from edgesync.parts.part import Context, Part
from edgesync.recorder import refusal_logged
from edgesync.status import LinkStatus
from edgesync.store import dead
from edgesync.store.declare import declare_all, hub_notes, note_hub
from edgesync_transport.seldom import Seldom

if TYPE_CHECKING:
    from edgesync.parts.keys import KeysPart
    from edgesync.rules.assigned import AssignedPart
    from edgesync.sync.driver import Objects, SyncDriver, Tunnels
    from edgesync.sync.inbound import Handler, Inbound
    from edgesync_transport.proxy import Proxy

log = logging.getLogger(__name__)

DECLARE_RETRY_S: Final = 30.0
SESSIONS_COUNTED: Final = 100  # the newest ones
# Keys that change all the time cannot be compared.
CHECKS_MAX: Final = 5
# What an operator must see is an event, too.
REPORTED: Final = ("fork", "rewind", "clock_skew", "hub_generation", "two_hubs")
# Of each kind; then one a minute, with how many were left out: the hub can cause them.
REPORTS_BURST: Final = 60
# A hub that says with each session that it has forgotten all is believed so often.
DECLARE_EVERY_S: Final = 60.0
# What one side knew of the other may be of another time.
RESTORED: Final = ("fork", "rewind", "hub_generation")
TWO_HUBS: Final = (
    "two hubs share one identity, and sessions alternate between them: stop one (a copied folder?)"
)
OTHER_NAME: Final = (
    "edge.name is {own!r} in edge.toml, and the hub calls this edge {called!r}: its entities are "
    "not kept the same as the hub's; set edge.name to {called!r}"
)
NOT_JOINED: Final = (
    "this edge has not joined its hub at {}; on the hub `hubd enroll NAME` prints a token, "
    "here `edgesync --config FILE init --token …` takes it"
)


class LinkPart(Part):
    """See the module. It observes its driver (`edgesync.sync.driver.Watcher`).

    driver    None without a hub, and in a plain program
    handlers  whose business a kind of event from the hub is; a part adds itself when it is opened
    restored  called when either side turns out to have been restored, or this edge to have a
              clone; parts add themselves
    tunnels   the part that lets the hub connect to something here; None lets it not
    objects   the part that holds large objects of the hub; None holds none
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.driver: SyncDriver | None = None
        self._began: deque[float] = deque(maxlen=SESSIONS_COUNTED)
        self.handlers: dict[int, Handler] = {}
        self.restored: list[Callable[[], None]] = []
        self._proxy: Proxy | None = None
        self.tunnels: Tunnels | None = None
        self.objects: Objects | None = None
        self._seldom = Seldom(burst=REPORTS_BURST)
        self._hub, self._is_declaring, self._declare_from = b"", False, -math.inf
        self._replaying = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        hub = self.context.settings.hub
        if hub.unjoined:
            log.warning("working alone: %s", NOT_JOINED.format(hub.unjoined))
        if not hub.endpoint:
            task_status.started()
            return
        # Imported when there is a hub: an edge that works alone does without ZeroMQ's memory.
        from edgesync.sync.driver import SyncDriver
        from edgesync_transport.dealer import open_connect
        from edgesync_transport.sockets import DEFAULT_SETTINGS, LinkSettings

        context, sync, store = self.context, self.context.settings.sync, self.context.recorder.store
        pair = settings_module.link_keys(context.settings, context.folder)
        self._proxy = settings_module.link_proxy(context.settings)
        vanished_s = max(sync.heartbeat * sync.heartbeats_missed_max, DEFAULT_SETTINGS.vanished_s)
        notes = hub_notes(store)
        if notes.is_owed:
            self.hub_forgot(notes.generation)
        async with open_connect(
            hub.endpoint,
            server_key=hub.server_key,
            keys=pair,
            settings=LinkSettings(vanished_s=vanished_s),
            proxy=self._proxy,
        ) as connect:
            driver = SyncDriver(
                store,
                connect,
                self,
                settings=sync.sender(f"edgesync {__version__}"),
                backoff=sync.backoff(),
                breaker=sync.breaker(),
                random=context.random,
                wall_ns=context.wall_ns,
                generation=notes.generation,
                inbound=self._inbound(),
                tunnels=self.tunnels,
                objects=self.objects,
            )
            self._attach(driver)
            task_status.started()
            await driver.run()

    def _inbound(self) -> "Inbound":
        from edgesync.sync.inbound import Inbound

        context = self.context
        return Inbound(
            context.recorder.store,
            edge=context.settings.edge.name,
            wall_ns=context.wall_ns,
            grown=context.recorder.note_grown,
            missed=self._note_restored,
            handlers=self.handlers,
        )

    def _attach(self, driver: "SyncDriver") -> None:
        """Let recorder and keys use the driver."""
        self.driver = driver
        context = self.context
        context.recorder.follow(driver)
        if context.recorder.store.store.count(CELLS):
            context.parts.get("keys").cells.note_changes()  # the hub is to have them, too
        keys: KeysPart | None = context.parts.find("keys")
        if keys is not None:
            keys.attach(driver)

    async def sync(self, timeout_s: float) -> None:
        """Wait until the hub has what is stored, and keys are the same; see `EdgeNode.sync`."""
        driver, recorder = self._joined(), self.context.recorder
        driver.retry_now()
        recorder.flush()
        with trio.fail_after(timeout_s):
            await driver.wait_durable(recorder.tails())
            keys: KeysPart | None = self.context.parts.find("keys")
            if keys is not None and keys.sync is not None:
                await keys.sync.sync()

    async def sync_full(self, timeout_s: float) -> Mapping[str, bool]:
        """Do as `sync`, ask for rule chains anew, and compare all keys with the hub's.

        Returns whether they were compared, and whether they differed: then each has told the other
        all it has. Raises as `sync` does.
        """
        self._joined()
        chains: AssignedPart | None = self.context.parts.find("chains")
        if chains is not None:
            chains.tell_again()  # the hub compares them with what it wants to run here
        keys: KeysPart = self.context.parts.get("keys")
        before = (0, 0) if keys.sync is None else (keys.sync.checks, keys.sync.refetches)
        with trio.fail_after(timeout_s):
            await self.sync(timeout_s)
            if keys.sync is None:
                return {"compared": False, "differed": False}
            for _ in range(CHECKS_MAX):
                if keys.sync.checks > before[0]:
                    break
                keys.sync.check_soon()
                await keys.sync.sync()
            differed = keys.sync.refetches > before[1]
            if differed:
                await keys.sync.sync()
            return {"compared": keys.sync.checks > before[0], "differed": differed}

    def _joined(self) -> "SyncDriver":
        """Return what speaks to the hub; raises ConfigError where there is none."""
        if self.driver is None:
            raise ConfigError(
                file="settings",
                field="hub.endpoint",
                problem="is empty, so there is nothing to sync with",
                remedy="join a hub with `edgesync init --token …`",
            )
        return self.driver

    def hurry(self) -> None:
        """Begin a round now, whatever intervals and back-off say."""
        keys: KeysPart | None = self.context.parts.find("keys")
        if keys is not None and keys.sync is not None:
            keys.sync.hurry()
        elif self.driver is not None:
            self.driver.retry_now()

    def _problem(self) -> str:
        """Return what is wrong although there is a session; empty for nothing."""
        assert self.driver is not None
        sender, own = self.driver.sender, self.context.settings.edge.name
        if sender.two_hubs:
            return TWO_HUBS
        if sender.called in ("", own):
            return ""
        return OTHER_NAME.format(own=own, called=sender.called)

    # -- what the driver reports -----------------------------------------------------------------

    def link_report(self, kind: str, facts: Mapping[str, str | int | float]) -> None:
        """Log what happened to the link; what an operator must see becomes an event."""
        if kind == "connected":
            self._began.append(trio.current_time())
        again = self._seldom.ask(kind)
        if again is not None:
            level = logging.ERROR if kind == "two_hubs" else logging.INFO
            told = {**facts, "left_out": again} if again else dict(facts)
            log.log(level, "link: edge=%s %s %s", self.context.settings.edge.name, kind, told)
            if kind == "connected" and (problem := self._problem()):
                log.error("link: %s", problem)
            if kind in REPORTED:
                self.context.parts.start_soon(self.context.recorder.report, kind, told)
        if kind in RESTORED:
            self._note_restored()

    def _note_restored(self) -> None:
        for note in self.restored:
            note()

    def hub_forgot(self, generation: bytes) -> None:
        """Declare all series again to a hub that lost some; note a hub met for the first time."""
        self._hub = generation
        if not self._is_declaring:
            self._is_declaring = True
            self.context.parts.start_soon(self._declare_again)

    async def _declare_again(self) -> None:
        """Do that until it is done for the newest that the hub said it is, and not too often."""
        recorder, wall_ns, done = self.context.recorder, self.context.wall_ns, b""
        while done != (generation := self._hub):
            try:
                notes = hub_notes(recorder.store)
                is_owed = notes.is_owed or bool(notes.generation)
                await note_hub(recorder.store, generation, is_owed=is_owed)
                if is_owed:
                    await trio.sleep_until(self._declare_from)
                    self._declare_from = trio.current_time() + DECLARE_EVERY_S
                    count = await declare_all(recorder.store, wall_ns, recorder.note_grown)
                    log.info("link: %d series declared again", count)
                    await note_hub(recorder.store, generation, is_owed=False)
            except StoreError as error:  # a full store, for now: I8
                log.error("series are declared again later: %s", error)
                self._declare_from = -math.inf
                await trio.sleep(DECLARE_RETRY_S)
            else:
                done = generation
        self._is_declaring = False

    def record_dead(self, lane: Lane, seq: int, reason: str) -> None:
        """Note that the hub refused a record for good, and why."""
        write = dead.dead_letter(lane, seq, reason, self.context.wall_ns())
        told = msgspec.json.encode({"dead": lane.name.lower(), "seq": seq, "reason": reason})
        self.context.parts.start_soon(self._store, write, told)

    async def _store(self, write: Write, told: bytes) -> None:
        with refusal_logged(told):
            await self.context.recorder.store.submit(write)

    async def replay_dead(self) -> int:
        """Append the refused records once more; returns how many are still in the journal."""
        recorder = self.context.recorder
        async with self._replaying:  # whoever asks meanwhile finds the list empty
            write, count = dead.replay(recorder.store)
            if len(write):
                recorder.note_grown(await recorder.store.submit(write))
        return count

    def records_lost(self, lane: Lane, first: int, last: int, reason: str) -> None:
        """Store a loss record for `first` to `last` of a lane."""
        report = self.context.recorder.report_loss
        self.context.parts.start_soon(report, lane, first, last, reason)

    # -- status ----------------------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        store = self.context.recorder.store
        return {"link": self.link_status(), "dead": store.store.count(dead.DATABASE)}

    def link_status(self) -> LinkStatus:
        hub = self.context.settings.hub
        endpoint = hub.endpoint or hub.url
        if self.driver is None:
            problem = NOT_JOINED.format(hub.url) if hub.unjoined else "no hub configured"
            if self.context.parts.nursery is None and hub.endpoint:
                problem = "no daemon runs here: `edgesync run` starts it"
            return LinkStatus(state="Disconnected", endpoint=endpoint, problem=problem)
        sender = self.driver.sender
        return LinkStatus(
            state=sender.status().value,
            endpoint=endpoint,
            via=str(self._proxy or ""),
            problem=self._problem() if sender.epoch else self.driver.last_problem,
            epoch=sender.epoch,
            rtt_s=sender.rtt_s,
            clock_offset_s=sender.clock_offset_s,
            breaker=self.driver.breaker.state(trio.current_time()).value,
            reconnects=self.driver.reconnects,
            restore_safe=sender.restore_safe,
            two_hubs=sender.two_hubs,
            slowed=sender.slowed(trio.current_time()),
            sessions_recent=sum(trio.current_time() - at < FLAPPING_S for at in self._began),
        )
