"""What is worth storing: readings that left their deadband, or that were silent for too long.

Without a rule every reading is reported. A rule is kept a series; `select` says what is due and
`reported` is called once that is durable, so a reading the store refused is offered again.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from edgesync.model import Reading, Value


class ReportRule(msgspec.Struct, frozen=True):
    """When a value of a series is reported again.

    absolute    a change of at least this much, in the series' unit; 0: any change
    percent     or of at least this share of the last reported value
    max_age_s   an unchanged value is reported again after this long; None: never
    """

    absolute: float | None = None
    percent: float | None = None
    max_age_s: float | None = None

    @property
    def is_always(self) -> bool:
        return self.absolute is None and self.percent is None

    def is_change(self, old: Value, new: Value) -> bool:
        """Tell whether `new` differs enough from the reported `old`."""
        if type(old) is not type(new):
            return True
        if isinstance(old, bool | str) or isinstance(new, bool | str):
            return old != new
        if old == new:
            return False
        limits = [] if self.absolute is None else [self.absolute]
        if self.percent is not None:
            limits.append(abs(old) * self.percent / 100)
        # A hair below the limit counts: 0.3 - 0.2 is 0.09999999999999998, and nobody
        # who asks for 0.1 means to lose that step.
        return abs(new - old) >= min(limits, default=0.0) * (1 - 1e-9) or math.isnan(new)


def parse_deadband(value: float | str) -> ReportRule:
    """Read a deadband: 0.5 (in the series' unit) or "2%" (of the last reported value).

    Raises ValueError saying what is allowed.
    """
    allowed = 'a deadband is a number >= 0 in the unit of the point, or a share like "2%"'
    if isinstance(value, str):
        number, percent = value.strip(), True
        if not number.endswith("%"):
            raise ValueError(f"{value!r}: {allowed}")
        text = number[:-1]
    else:
        text, percent = str(value), False
    try:
        amount = float(text)
    except ValueError as error:
        raise ValueError(f"{value!r}: {allowed}") from error
    if not 0 <= amount < math.inf or isinstance(value, bool):
        raise ValueError(f"{value!r}: {allowed}")
    return ReportRule(percent=amount) if percent else ReportRule(absolute=amount)


class Reporter:
    """Remembers what was last reported of each key; times are monotonic seconds.

    Keys are those of the rules given; every other reading passes.
    """

    def __init__(self, rules: Mapping[str, ReportRule]) -> None:
        self._rules = {key: rule for key, rule in rules.items() if not rule.is_always}
        self._last: dict[str, tuple[Value, float]] = {}

    def select(self, readings: Sequence[Reading], now_s: float) -> Sequence[Reading]:
        """Return those of `readings` that are due at `now_s`, in their order."""
        if not self._rules:
            return readings
        return [reading for reading in readings if self._is_due(reading, now_s)]

    def reported(self, readings: Iterable[Reading], now_s: float) -> None:
        """Note that `readings` are stored."""
        for reading in readings:
            if reading.key in self._rules:
                self._last[reading.key] = (reading.value, now_s)

    def forget(self) -> None:
        """Report everything once more, as after the device was away."""
        self._last.clear()

    def _is_due(self, reading: Reading, now_s: float) -> bool:
        rule = self._rules.get(reading.key)
        last = self._last.get(reading.key)
        if rule is None or last is None:
            return True
        value, at_s = last
        if rule.max_age_s is not None and now_s - at_s >= rule.max_age_s - 1e-6:
            return True
        return rule.is_change(value, reading.value)
