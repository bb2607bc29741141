"""How an edge is, in one word: the thresholds operators know from their other systems."""

from typing import Final, Literal

from hubd.api.context import EdgeView

Health = Literal["good", "warning", "critical"]

LAG_WARNING_RECORDS: Final = 1000
LAG_CRITICAL_RECORDS: Final = 5000
LAG_WARNING_S: Final = 5.0
LAG_CRITICAL_S: Final = 30.0
# An NTP-disciplined clock is within 0.1 s; past a second, times of events mislead people.
CLOCK_WARNING_S: Final = 1.0


def health_of(edge: EdgeView) -> Health:
    lag_s = edge.lag_s or 0.0
    if edge.lag_records > LAG_CRITICAL_RECORDS or lag_s > LAG_CRITICAL_S:
        return "critical"
    if not edge.is_connected:
        # An edge that was registered and has not come yet is nothing to be alarmed about.
        return "warning" if edge.seen_at_ns is None else "critical"
    has_lag = edge.lag_records >= LAG_WARNING_RECORDS or lag_s >= LAG_WARNING_S
    if has_lag or abs(edge.clock_offset_s or 0.0) >= CLOCK_WARNING_S:
        return "warning"
    return "good"
