"""Which level of which resource asks for what, and what is in force.

Actions are a set for each resource and level: a memory that is short does not hide a disk that is
full.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

import msgspec

from edgesync.resources.levels import UNKNOWN, Ladder, Level, Sample, Thresholds


class Action(Enum):
    """Those in AGAIN are done again while they are in force; others are states."""

    SYNC_NOW = "sync_now"  # let the hub take what waits for it
    OFFLOAD = "offload"  # delete what the hub has safely
    COMPACT = "compact"  # give back memory and pages that are not needed
    COMPRESS = "compress"  # pack values from now on
    EVICT = "evict"  # leave values of keys to the hub that it has too
    SLOW_SYNC = "slow_sync"  # talk to the hub less often, see `pace`
    REFUSE_WRITES = "refuse_writes"  # of keys, by clients; deletes, reads and readings go on


AGAIN_S: Final = 60.0
AGAIN: Final = frozenset({Action.SYNC_NOW, Action.OFFLOAD, Action.COMPACT, Action.EVICT})

_FREE: Final = frozenset({Action.SYNC_NOW, Action.OFFLOAD, Action.COMPACT})
_PACK: Final = _FREE | {Action.COMPRESS}
_STOP: Final = _PACK | {Action.REFUSE_WRITES}
# Values are on the disk, in a map whose pages the kernel takes back by itself: to leave them to the
# hub gives disk, and no memory.
_EVICT: Final = frozenset({Action.EVICT})
_SLOW: Final = frozenset({Action.SLOW_SYNC})

POLICY: Final[Mapping[str, tuple[frozenset[Action], ...]]] = {
    # resource: at normal, warning, high, critical
    "memory": (frozenset(), _FREE, _PACK, _STOP),
    "disk": (frozenset(), _FREE, _PACK | _EVICT, _STOP | _EVICT),
    "io": (frozenset(), _SLOW, _SLOW, _SLOW),
    "cpu": (frozenset(), _SLOW, _SLOW, _SLOW),
    "network": (frozenset(), _SLOW, _SLOW, _SLOW),
    "battery": (frozenset(), _SLOW, _SLOW, _SLOW),
}


class LevelChanged(msgspec.Struct, frozen=True):
    resource: str
    before: Level
    after: Level
    sample: Sample


class Begun(msgspec.Struct, frozen=True):
    """An action is in force from here on."""

    action: Action


class Again(msgspec.Struct, frozen=True):
    """An action that is in force is due once more."""

    action: Action


class Ended(msgspec.Struct, frozen=True):
    """Nothing asks for this action any more."""

    action: Action


Change = LevelChanged | Begun | Again | Ended


class ResourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One resource; `since_s` is how long the level has lasted, `is_known` whether it is measured.

    percent   of the limit; of battery: what is left of its charge
    actions   asked for by this resource
    """

    value: float
    limit: float
    percent: float
    level: str
    since_s: float
    is_known: bool
    actions: tuple[str, ...]


class Watch:
    """The levels of all resources, and the actions in force.

    able   actions there is somebody to carry out; others are not spoken of
    """

    def __init__(
        self,
        thresholds: Mapping[str, Thresholds],
        now: float,
        able: frozenset[Action] = frozenset(Action),
    ) -> None:
        self._able = able
        self._ladders = {name: Ladder(one, now) for name, one in thresholds.items()}
        self._samples = dict.fromkeys(self._ladders, UNKNOWN)
        self._in_force: dict[Action, float] = {}  # when it was last due

    @property
    def level(self) -> Level:
        """The worst of all."""
        return max(one.level for one in self._ladders.values())

    @property
    def actions(self) -> frozenset[Action]:
        return frozenset(self._in_force)

    def level_of(self, resource: str) -> Level:
        return self._ladders[resource].level

    def step(self, samples: Mapping[str, Sample], now: float) -> list[Change]:
        """Take samples at monotonic time `now` (seconds); one that is missing is not known."""
        changes: list[Change] = []
        for name, ladder in self._ladders.items():
            before, sample = ladder.level, samples.get(name, UNKNOWN)
            self._samples[name] = sample
            after = ladder.step(sample, now)
            if after != before:
                changes.append(LevelChanged(name, before, after, sample))
        return changes + list(self._actions_at(now))

    def _actions_at(self, now: float) -> Iterable[Change]:
        wanted = frozenset[Action]().union(*map(self._asked_by, self._ladders))
        for action in Action:
            if action not in wanted:
                if self._in_force.pop(action, None) is not None:
                    yield Ended(action)
            elif action not in self._in_force:
                self._in_force[action] = now
                yield Begun(action)
            elif action in AGAIN and now - self._in_force[action] >= AGAIN_S:
                self._in_force[action] = now
                yield Again(action)

    def _asked_by(self, resource: str) -> frozenset[Action]:
        return POLICY[resource][self._ladders[resource].level] & self._able

    def complaint(self) -> str:
        """Return what a client is told that may not write: `memory 96.1%`."""
        return ", ".join(
            f"{name} {self._samples[name].percent:.1f}%"
            for name in self._ladders
            if Action.REFUSE_WRITES in self._asked_by(name)
        )

    def report(self, now: float) -> dict[str, ResourceStatus]:
        return {name: self._status(name, now) for name in self._ladders}

    def _status(self, name: str, now: float) -> ResourceStatus:
        ladder, sample = self._ladders[name], self._samples[name]
        asked = self._asked_by(name)
        return ResourceStatus(
            value=sample.value,
            limit=sample.limit,
            percent=round(sample.percent, 1),
            level=ladder.level.name.lower(),
            since_s=now - ladder.since,
            is_known=sample.strain is not None or sample.stall is not None,
            actions=tuple(one.value for one in Action if one in asked),
        )
