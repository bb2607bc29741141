"""Values a device cannot mean: a counter that falls, a step no plant makes.   [sans-IO]

What a restarting device shows for some seconds (zeros, half-filled registers) is no reading. A
level that stays is: after five minutes of values that agree with each other the new one is taken,
as when a meter was exchanged. Times are monotonic seconds.
"""

from typing import Final

from msgspec import Struct

from edgesync.model import Value

ACCEPT_AFTER_S: Final = 300.0


class PlausibleRule(Struct, frozen=True):
    """What a series may do from one poll to the next.

    never_falls   a smaller value than before is none
    max_step      the largest change within `period_s`; None: any
    """

    never_falls: bool
    max_step: float | None
    period_s: float


class _Seen(Struct):
    """The last value taken, and since when others are refused that agree among themselves."""

    value: float
    at_s: float
    other: float = 0.0
    other_at_s: float = 0.0
    others_since_s: float | None = None


class Plausibility:
    """Remembers what was last taken of each series with a rule."""

    def __init__(self, rules: dict[str, PlausibleRule]) -> None:
        self._rules = rules
        self._seen: dict[str, _Seen] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def problem(self, key: str, value: Value, now_s: float) -> str:
        """Say why `value` cannot be meant; "" if it is taken."""
        rule = self._rules.get(key)
        if rule is None or isinstance(value, str):
            return ""
        seen = self._seen.get(key)
        if seen is None:
            self._seen[key] = _Seen(value, now_s)
            return ""
        problem = _problem(rule, seen.value, seen.at_s, value, now_s)
        if not problem:
            seen.value, seen.at_s, seen.others_since_s = value, now_s, None
            return ""
        agrees = seen.others_since_s is not None and not _problem(
            rule, seen.other, seen.other_at_s, value, now_s
        )
        if not agrees:
            seen.others_since_s = now_s
        seen.other, seen.other_at_s = value, now_s
        assert seen.others_since_s is not None, "set above"
        if now_s - seen.others_since_s >= ACCEPT_AFTER_S:
            self._seen[key] = _Seen(value, now_s)
            return ""
        return problem


def _problem(
    rule: PlausibleRule, before: float, before_s: float, value: float, now_s: float
) -> str:
    if rule.never_falls and value < before:
        return f"fell from {before:.10g} to {value:.10g}, and it never falls"
    if rule.max_step is not None:
        # After an outage a value may be as far as that many steps.
        periods = max((now_s - before_s) / rule.period_s, 1.0)
        if abs(value - before) > rule.max_step * periods * (1 + 1e-9):
            return f"went from {before:.10g} to {value:.10g}, more than {rule.max_step:g} a poll"
    return ""
