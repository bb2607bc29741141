"""How an edge is, in one word, and how the hub is, in sentences."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal

import msgspec

from edgesync.bounds import (
    CLOCK_MISLEADING_S,
    LAG_CRITICAL_RECORDS,
    LAG_CRITICAL_S,
    LAG_WARNING_RECORDS,
    LAG_WARNING_S,
)
from edgesync_transport import descriptors
from hubd.api.context import Context, EdgeView
from hubd.link.rates import Slowdowns
from hubd.log.retention import BACKUP, HIGH_SHARE, STATE_BACKUP, Standing
from hubd.project.base import Health as ProjectorHealth
from hubd.project.gaps import Gap, read_gaps
from hubd.state import UNREADABLE, views

Health = Literal["good", "warning", "critical", "idle"]
# States in which nobody waits for an edge.
IDLE: Final = ("invited", "revoked")
# The worst first.
RANK: Final[dict[Health, int]] = {"critical": 0, "warning": 1, "good": 2, "idle": 3}

# It begins to drop at less, and refuses at nine tenths: so much of it in use is out of order.
LOG_WARNING_SHARE: Final = 0.85
# What is to go and cannot, and a reader is to blame: it takes a moment to store what it has read.
HELD_WARNING_S: Final = 300.0
GAP_SHOWN_S: Final = 7 * 86400.0
REBUILD_SHOWN_S: Final = 86400.0
# The largest changes take about a second.
WRITE_WARNING_S: Final = 10.0
EDGES_NAMED: Final = 5


class HubProblem(msgspec.Struct, frozen=True):
    """Something an operator should know; `stops_work` if something does not work because of it."""

    text: str
    stops_work: bool = False


async def hub_problems(context: Context) -> list[HubProblem]:
    """Return what is wrong with the hub, what stops work first."""
    found = [*_projector_problems(context), *_log_problems(context), *_state_problems(context)]
    found += map(HubProblem, descriptors.problems())
    if problem := context.registry_problem():
        found.append(HubProblem(problem, stops_work=True))
    found += _slowed_problems(context.hub.slowed())
    found += [
        HubProblem(
            f"edge {edge}: two machines have its key and come in turn, each with what the "
            "other lacks: stop one (a copied folder?)"
        )
        for edge in context.hub.cloned()[:EDGES_NAMED]
    ]
    found += _keys_problems(context)
    found += [
        HubProblem(
            f"{one.kind} {one.name} has {one.series} of {one.limit} series: at the limit new ones "
            f"wait and known ones go on; `{one.setting}` under [limits] in hub.toml"
        )
        for one in islice(context.projectors.series.crowds(), EDGES_NAMED)
    ]
    try:
        over, gaps = await context.state.read(
            lambda c: (views.over_limit(c, EDGES_NAMED), read_gaps(c))
        )
    except UNREADABLE as error:
        reason = getattr(error, "orig", None) or error
        found.append(HubProblem(f"the state cannot be read: {reason}", stops_work=True))
    else:
        found += [
            HubProblem(
                f"edge {one.edge}: {one.refused} readings are in the log only, it names more "
                "series than `series` under [limits] in hub.toml allows"
            )
            for one in over
        ]
        found += _gap_problems(gaps, context.now_ns())
    return sorted(found, key=lambda problem: not problem.stops_work)


def _projector_problems(context: Context) -> list[HubProblem]:
    found = []
    for one in context.projectors.progress:
        if one.health is ProjectorHealth.FAILING:
            behind = max(0, context.hub.log_head - one.position)
            text = f"projector {one.name} waits at {one.position}, {behind} entries behind"
            text = f"{text}: {one.error}"
            found.append(HubProblem(text, stops_work=True))
        if one.skipped:
            text = f"projector {one.name} skipped {one.skipped} entries of the log"
            found.append(
                HubProblem(f"{text}, the newest: {one.newest_skip or 'before this start'}")
            )
    return found


def _log_problems(context: Context) -> list[HubProblem]:
    stats, standing = context.hub.log_stats(), context.retention()
    held_s = (context.now_ns() - standing.held_since_ns) / 1e9 if standing.held_by else 0.0
    is_short = stats.used_bytes >= HIGH_SHARE * stats.limit_bytes
    found = []
    if stats.used_bytes >= LOG_WARNING_SHARE * stats.limit_bytes or (standing.held_by and is_short):
        percent = 100 * stats.used_bytes // stats.limit_bytes
        text = (
            f"the log uses {stats.used_bytes} of {stats.limit_bytes} bytes ({percent} %); when it "
            f"is full edges keep what they have: {_held(standing, stats.oldest)}raise `limit` "
            "under [log] in hub.toml"
        )
        found.append(HubProblem(text, stops_work=stats.is_full))
    elif held_s > HELD_WARNING_S:
        text = f"the log keeps what is to go: {_held(standing, stats.oldest)}see `hubd status`"
        found.append(HubProblem(text))
    if stats.damaged:
        found.append(HubProblem(f"{stats.damaged} values of the log are damaged and left out"))
    return found


def _held(standing: Standing, oldest: int) -> str:
    """Return the part of a sentence that says for what entries from `oldest` on are kept."""
    if standing.held_by in (BACKUP, STATE_BACKUP):
        has = "them" if standing.held_by == BACKUP else "the state that was made of them"
        return (
            f"entries from {oldest} on stay until a backup has {has}: make one (`hubd backup`), "
            "set `keep` or `keep_bytes` under [log], or "
        )
    if standing.held_by in standing.cursors:
        cursor = standing.cursors[standing.held_by]
        return f"entries from {oldest} on stay for {standing.held_by}, which is at {cursor}; "
    return f"entries from {oldest} on stay for {standing.held_by}; " if standing.held_by else ""


def _gap_problems(gaps: Iterable[Gap], now_ns: int) -> list[HubProblem]:
    """Say what is not in the state, once for all views that lack the same."""
    lacking: dict[tuple[int, int, str], list[str]] = {}
    for gap in gaps:
        if now_ns - gap.found_ns < GAP_SHOWN_S * 1e9:
            before = datetime.fromtimestamp(gap.before_ns / 1e9, UTC).isoformat(" ", "seconds")
            lacking.setdefault((gap.after, gap.until, before), []).append(gap.projector)
    return [
        HubProblem(
            f"history before {before} (entries {after + 1} to {until} of the log) is not in this "
            f"state ({', '.join(names)}): the log had dropped it; `hubd restore --state BACKUP` "
            "brings it back"
        )
        for (after, until, before), names in lacking.items()
    ]


def _keys_problems(context: Context) -> list[HubProblem]:
    found = []
    for tenant, answers in context.seen_answers().items():
        if answers.skipped:
            text = (
                f"keys of {tenant}: {answers.skipped} entries of the log could not be carried out"
            )
            found.append(HubProblem(text))
        found += [
            HubProblem(
                f"edge {edge} is granted some keys only and is of a version that knows no grants: "
                "it is told of none; upgrade it"
            )
            for edge in sorted(answers.too_old)[:EDGES_NAMED]
        ]
        if lacks := answers.cells.mark.lacks:
            found.append(
                HubProblem(
                    f"keys of {tenant} were made again from entry {lacks + 1} of the log on: edges "
                    "tell again what they hold, what none holds is in backups"
                )
            )
    return found


def _slowed_problems(slowed: Slowdowns) -> list[HubProblem]:
    named = [("tenant", one) for one in slowed.tenants]
    named += [("edge", one) for one in slowed.edges[:EDGES_NAMED]]
    found = [
        HubProblem(f"{kind} {one.name} sends more than it may and keeps the rest: {one.reason}")
        for kind, one in named
    ]
    if (more := len(slowed.edges) - EDGES_NAMED) > 0:
        found.append(HubProblem(f"{more} more edges send more than they may"))
    return found


def _state_problems(context: Context) -> list[HubProblem]:
    if (writes_for_s := context.state.writes_for_s) > WRITE_WARNING_S:
        text = f"the state's database has been at one change for {writes_for_s:.0f} s"
        return [HubProblem(f"{text}: what is shown is of before", stops_work=True)]
    state, last = context.state, context.state.last_rebuild
    if state.is_damaged:
        return [HubProblem("the state is damaged and about to be made again", stops_work=True)]
    if last is None or time.time_ns() - last.at_ns > REBUILD_SHOWN_S * 1e9:
        return []
    return [HubProblem(f"the state was damaged ({last.reason}) and made again from the log")]


def health_of(edge: EdgeView) -> Health:
    """Say how much an edge needs somebody; `idle` is one that is not expected to be here."""
    if edge.state in IDLE:
        return "idle"
    lag, lag_s = edge.lag_records or 0, edge.lag_s or 0.0
    # One that was stopped in order, or has not been heard since this hub started, is not lost yet.
    if edge.state in ("stopped", "disconnected"):
        return "warning"
    if not edge.is_connected or lag > LAG_CRITICAL_RECORDS or lag_s > LAG_CRITICAL_S:
        return "critical"
    has_lag = lag >= LAG_WARNING_RECORDS or lag_s >= LAG_WARNING_S
    is_misleading = abs(edge.clock_offset_s or 0.0) >= CLOCK_MISLEADING_S
    if has_lag or edge.slowed or edge.has_clone or is_misleading:
        return "warning"
    return "good"
