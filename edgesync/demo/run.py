"""The demonstration: watch it, break it, compare it."""

import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import trio

from edgesync.demo import tour
from edgesync.demo.chaos import Fault, Strike, plan
from edgesync.demo.counter import ReadingCounter
from edgesync.demo.ledger import Finding, compare
from edgesync.demo.pump import Pump
from edgesync.demo.site import EDGE, DemoError, Site, open_site

# After the last fault: reconnect, resend, project. Far more than it takes, for slow machines.
SETTLE_S: Final = 60.0
LOOK_S: Final = 0.5
TOUR_PAUSE_S: Final = 6.0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What the terminal shows: readings by place, since the start. None: it is away now.

    produced      that the edge acknowledged to its devices' reader, as a witness outside noted it,
                  and to the pump
    journaled     on the edge's disk: more than produced when a kill came before the answer
    acknowledged  that the edge knows to be at the hub
    said          what the tour has shown
    """

    url: str
    edge: str
    link: str
    produced: int | None
    journaled: int | None
    acknowledged: int | None
    in_log: int | None
    in_state: int | None
    last_fault: str
    said: tuple[str, ...] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a chaos run: `findings` is empty when the ledger is equal."""

    seed: int
    seconds: float
    strikes: dict[str, int]
    witnessed: int
    journal_records: int
    journal_readings: int
    log_records: int
    state_readings: int
    findings: list[Finding]

    @property
    def is_equal(self) -> bool:
        return not self.findings


Show = Callable[[Line], None]


class Demo:
    """One run; `show` is called twice a second with what there is to see."""

    def __init__(self, site: Site, show: Show) -> None:
        self.site = site
        self._show = show
        self._last_fault = ""
        self._strikes: dict[str, int] = {}
        self._counter = ReadingCounter(site.edge_folder / "data" / "store")
        self.pump: Pump | None = None
        self.said: list[str] = []

    async def watch(self) -> None:
        """Show the ledger until cancelled."""
        while True:
            self._show(await trio.to_thread.run_sync(self._line))
            await trio.sleep(LOOK_S)

    def _line(self) -> Line:
        edge, hub = self.site.edge_status(), self.site.hub_view()
        counter = self._counter
        counter.look()
        floors = [lane["floor"] for lane in edge["lanes"]] if edge else None
        in_log = [lane["floor"] for lane in hub["link"]["lanes"]] if hub else None
        return Line(
            url=self.site.url,
            edge="up" if edge else "down",
            link=edge["link"]["state"] if edge else "",
            produced=self.site.count_witnessed() + (self.pump.acknowledged if self.pump else 0),
            journaled=counter.total,
            acknowledged=counter.up_to(floors) if floors else None,
            in_log=counter.up_to(in_log) if in_log else None,
            in_state=hub["state"]["readings"] if hub else None,
            last_fault=self._last_fault,
            said=tuple(self.said),
        )

    async def show_devices(self, mqtt_port: int, *, pause_s: float = TOUR_PAUSE_S) -> None:
        """Run a pump beside the site, and the tour once; lasts until cancelled."""
        self.pump = Pump()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pump.run, mqtt_port)
            await tour.run(self.site, self.pump, self.said.append, pause_s=pause_s)

    async def strike(self, one: Strike) -> None:
        """Wait, break something, wait, mend it."""
        site = self.site
        await trio.sleep(one.calm_s)
        self._last_fault = one.fault.value
        self._strikes[one.fault.value] = self._strikes.get(one.fault.value, 0) + 1
        match one.fault:
            case Fault.CUT:
                site.cable.cut()
            case Fault.HUSH:
                site.cable.hush()
            case Fault.KILL_EDGE:
                await site.kill("edge")
            case Fault.KILL_HUB:
                await site.kill("hub")
            case Fault.CLOCK:
                site.step_clock(one.step_s)
        await trio.sleep(one.outage_s)
        match one.fault:
            case Fault.CUT | Fault.HUSH:
                site.cable.plug()
            case Fault.KILL_EDGE:
                await site.start_edge()
            case Fault.KILL_HUB:
                await site.start_hub()

    async def _until(self, is_so: Callable[[], bool], what: str) -> None:
        """Ask twice a second until the answer is yes; raises DemoError if it never is."""
        for _ in range(int(SETTLE_S / LOOK_S)):
            if await trio.to_thread.run_sync(is_so):
                return
            await trio.sleep(LOOK_S)
        raise DemoError(f"{what} not in {SETTLE_S:.0f} s; the logs are in {self.site.folder}")

    def _is_delivered(self) -> bool:
        edge = self.site.edge_status()
        return edge is not None and not sum(lane["pending"] for lane in edge["lanes"])

    def _is_projected(self) -> bool:
        stats: Any = self.site.get("/api/v1/stats")
        return stats is not None and not sum(one["lag"] for one in stats["projectors"])

    async def compare(self, seed: int, seconds: float) -> Verdict:
        """Stop the devices' reader, let everything arrive, stop all, compare every row."""
        await self.site.stop("edge")
        # A last word: what the edge wrote while stopping leaves when it starts once more.
        await self._deliver_rest()
        await self.site.stop("hub")
        ledger = await self.site.hubd("ledger", "--edge", EDGE)
        places = await trio.to_thread.run_sync(self.site.places, ledger)
        return Verdict(
            seed=seed,
            seconds=seconds,
            strikes=self._strikes,
            witnessed=sum(map(len, places.witnessed.values())),
            journal_records=len(places.journal),
            journal_readings=sum(map(len, places.journal_points.values())),
            log_records=len(places.log),
            state_readings=sum(map(len, places.state_points.values())),
            findings=compare(places),
        )

    async def _deliver_rest(self) -> None:
        """Start the edge without its devices until the hub has everything it holds."""
        config = self.site.edge_folder / "edge.toml"
        text = await trio.Path(config).read_text()
        await trio.Path(config).write_text(text.partition("\n[[modbus]]")[0])
        await self.site.start_edge()
        await self._until(self._is_delivered, "everything delivered")
        await self.site.kill("edge")
        await self._until(self._is_projected, "everything projected")


@contextlib.asynccontextmanager
async def open_demo(show: Show, *, folder: Path | None, **options: Any) -> AsyncIterator[Demo]:
    """Yield a running demo; without `folder` everything is in a temporary one that goes."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            place = tempfile.TemporaryDirectory(prefix="edgesync-demo-")
            folder = Path(stack.enter_context(place))
        folder.mkdir(parents=True, exist_ok=True)
        async with open_site(folder, **options) as site:
            yield Demo(site, show)


async def run_chaos(
    show: Show, *, seed: int, seconds: float, folder: Path | None, **options: Any
) -> Verdict:
    """Break things for `seconds`, then compare; raises DemoError when a process fails by itself."""
    async with open_demo(show, folder=folder, seed=seed, **options) as demo:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(demo.watch)
            started = time.monotonic()
            for one in plan(Random(seed), seconds):
                if time.monotonic() - started > seconds:
                    break
                await demo.strike(one)
            nursery.cancel_scope.cancel()
        return await demo.compare(seed, seconds)
