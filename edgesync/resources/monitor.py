"""Looks at the machine on a timer and carries out what follows; the decisions are in `policy`."""

import logging
from collections.abc import Awaitable, Callable, Mapping

import trio

from edgesync.errors import StoreError
from edgesync.resources.levels import Sample
from edgesync.resources.pace import FLOOR_S, paced
from edgesync.resources.policy import (
    Action,
    Again,
    Begun,
    Change,
    Ended,
    LevelChanged,
    ResourceStatus,
    Watch,
)  # fmt: skip

log = logging.getLogger(__name__)

Look = Callable[[], Sample | None]
# Told True when an action begins or is due again, False when it ends.
Door = Callable[[bool], Awaitable[None]]
Listener = Callable[[Change], None]


class ResourceMonitor:
    """The resources of one edge.

    looks   by resource: what returns a sample, or None while it is not known
    doors   by action: what carries it out

    network_s   pause between two rounds with the hub, as the network would have it
    """

    def __init__(
        self,
        watch: Watch,
        looks: Mapping[str, Look],
        doors: Mapping[Action, Door],
        *,
        interval_s: float = 2.0,
        network_s: Callable[[], float] = lambda: FLOOR_S,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.watch = watch
        self._looks, self._doors = looks, doors
        self._interval_s = interval_s
        self._network_s = network_s
        self._clock = clock
        self._listeners: list[Listener] = []

    @property
    def level(self) -> str:
        """The worst level of all resources: normal, warning, high, critical."""
        return self.watch.level.name.lower()

    @property
    def worst(self) -> tuple[str, ...]:
        """The resources that have this level; none while all are normal."""
        found = self.report().items()
        return tuple(name for name, one in found if one.level == self.level != "normal")

    def report(self) -> dict[str, ResourceStatus]:
        """Return how it stands with each resource, as of the last look."""
        return self.watch.report(self._clock())

    def pace_s(self, wanted_s: float = 0.0) -> float:
        """Return the pause between two rounds: by the network so far, and the battery's level.

        wanted_s   what was asked for; it is at least that
        """
        return paced(max(wanted_s, self._network_s()), self.watch.level_of("battery"))

    def interval_s(self, wanted_s: float) -> float:
        """Return the pause that was asked for, or the pace's while the hub is to be spared."""
        if Action.SLOW_SYNC not in self.watch.actions:
            return wanted_s
        return self.pace_s(wanted_s)

    def on_change(self, listener: Listener) -> None:
        """Call `listener` with each change of a level, each action begun, due again, ended."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Look, act, wait, for ever."""
        while True:
            await self.look()
            await trio.sleep(self._interval_s)

    async def look(self) -> None:
        """Look once, and carry out what follows."""
        samples = {name: sample for name, take in self._looks.items() if (sample := take())}
        for change in self.watch.step(samples, self._clock()):
            await self._carry_out(change)
            for listener in self._listeners:
                listener(change)

    async def _carry_out(self, change: Change) -> None:
        match change:
            case LevelChanged(resource, before, after, sample):
                log.log(
                    logging.WARNING if after > before else logging.INFO,
                    "resource %s: %s -> %s at %.1f %%",
                    resource, before.name.lower(), after.name.lower(), sample.percent,
                )  # fmt: skip
            case Begun(action) | Again(action):
                await self._do(action, True)
            case Ended(action):
                await self._do(action, False)

    async def _do(self, action: Action, is_on: bool) -> None:
        try:
            await self._doors[action](is_on)
        except StoreError as error:
            # What cannot be given back now is tried again while the action is in force.
            log.warning("resource action %s: %s", action.value, error)
