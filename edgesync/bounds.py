"""From where on an operator should look: the same for edge, hub and hubd/alerts.yml (S27)."""

from typing import Final

LAG_WARNING_RECORDS: Final = 1000
LAG_CRITICAL_RECORDS: Final = 5000
LAG_WARNING_S: Final = 5.0
LAG_CRITICAL_S: Final = 30.0
# Of the store, and of a lane that has a capacity.
FULL_WARNING: Final = 0.8
FULL_CRITICAL: Final = 0.9
# An NTP-disciplined clock is within 0.1 s. Past a second, times of events mislead people, and the
# hub's list of edges says so; from CLOCK_WARNING_S on it is an event, and an alert (S25).
CLOCK_MISLEADING_S: Final = 1.0
CLOCK_WARNING_S: Final = 5.0
# More sessions begun in FLAPPING_S: one in a hundred seconds is a link that does not hold, as one
# that lasts half a minute, or a whole one, and is gone again.
FLAPPING_S: Final = 600.0
FLAPPING_SESSIONS: Final = 6
ACK_WARNING_S: Final = 1.0
