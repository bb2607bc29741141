"""What an edge is to run beside what it tells that it runs."""

from typing import Literal

import msgspec

from hubd.rules.bundles import Assignment
from hubd.rules.reports import TOO_OLD, KnownRules, NodeCounts

# none      nothing is assigned, and it has told of no chains
# waiting   it has not told that it has what it is to run, or that it has let go of what it had
# running   it runs what it is assigned
# refused   it does not run that; `refused` says why
# local     the settings there name chains, which count before what is assigned
# kept      it runs what a hub assigned that this registry does not know of
State = Literal["none", "waiting", "running", "refused", "local", "kept"]


class EdgeRules(msgspec.Struct, frozen=True, kw_only=True):
    """Rule chains of one edge. Of what it told: told_ns, and counted_ns for the nodes.

    bundle, version     what runs there of the hub's bundles, or would without chains of its own
    problem             why chains in files there do not run
    nodes               counters since the edge started
    """

    edge: str
    state: State
    assigned: Assignment | None = None
    bundle: str = ""
    version: int = 0
    since_ns: int | None = None
    source: str = "none"
    root: str = ""
    chains: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    problem: str = ""
    told_ns: int | None = None
    nodes: list[NodeCounts] = []
    counted_ns: int | None = None


def standing(
    edge: str, assigned: Assignment | None, known: KnownRules | None, *, has_decided: bool = True
) -> EdgeRules:
    """Return how it stands; has_decided: this registry knows what the edge is to run, or not to."""
    if known is None or known.report is None:
        is_too_old = known is not None and known.is_too_old and assigned is not None
        return EdgeRules(
            edge=edge, assigned=assigned, refused=(TOO_OLD,) if is_too_old else (),
            state="refused" if is_too_old else "none" if assigned is None else "waiting",
        )  # fmt: skip
    one = known.report
    return EdgeRules(
        edge=edge, state=_state(assigned, known, has_decided), assigned=assigned,
        bundle=one.bundle, version=one.version, since_ns=one.since_ns or None, source=one.source,
        root=one.root, chains=one.chains, refused=one.refused, problem=one.problem,
        told_ns=known.report_ns or None, nodes=known.nodes, counted_ns=known.nodes_ns or None,
    )  # fmt: skip


def _state(assigned: Assignment | None, known: KnownRules, has_decided: bool) -> State:
    one = known.report
    assert one is not None
    if one.is_local:
        return "local"
    if one.held and not has_decided:
        return "kept"
    if one.held != ("" if assigned is None else assigned.digest):
        return "waiting"
    if assigned is None:
        return "none"
    return "running" if one.running == one.held and one.source == "hub" else "refused"
