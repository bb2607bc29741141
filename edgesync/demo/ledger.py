"""The ledger: does every place hold the same rows, once each, in the same order?        [sans-IO]

Four places are compared after everything has come to rest:

    witnessed   what the edge told its sources was stored, noted outside the store
    journal     what the edge's journal holds
    log         what the hub's log holds
    state       what the hub's projectors made of it

Journal and log must be equal record by record. The state must hold every reading of the journal,
series by series, in the journal's order. What was witnessed must be in the journal in that order;
the journal may hold more, since a process can die between the commit and the answer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec


class RecordRow(NamedTuple):
    """One record of a lane; `digest` covers its kind and body."""

    lane: int
    seq: int
    event_id: str
    digest: str


class Point(NamedTuple):
    time_ns: int
    value: float | int | str


class Finding(msgspec.Struct, frozen=True):
    """One way in which a place differs from the one before it."""

    place: str
    problem: str  # missing, doubled, out of order, changed
    where: str
    count: int


class Places(msgspec.Struct, frozen=True, kw_only=True):
    witnessed: Mapping[int, Sequence[Point]]  # by series id
    journal: Sequence[RecordRow]
    journal_points: Mapping[int, Sequence[Point]]
    log: Sequence[RecordRow]
    state_points: Mapping[int, Sequence[Point]]


def compare(places: Places) -> list[Finding]:
    """Return every difference; an empty list is an equal ledger."""
    findings = _compare_records(places.journal, places.log)
    for series in sorted(places.journal_points.keys() | places.state_points.keys()):
        findings += _compare_points(
            "state",
            f"series {series:016x}",
            places.journal_points.get(series, ()),
            places.state_points.get(series, ()),
        )
    for series, points in sorted(places.witnessed.items()):
        absent = _not_in_order(points, places.journal_points.get(series, ()))
        if absent:
            findings.append(Finding("journal", "missing", f"series {series:016x}", absent))
    return findings


def _compare_records(journal: Sequence[RecordRow], log: Sequence[RecordRow]) -> list[Finding]:
    findings: list[Finding] = []
    for lane in sorted({row.lane for row in (*journal, *log)}):
        ours = [row for row in journal if row.lane == lane]
        theirs = [row for row in log if row.lane == lane]
        if ours == theirs:
            continue
        seqs = [row.seq for row in theirs]
        known = set(ours)
        counts = {
            "missing": len({row.seq for row in ours} - set(seqs)),
            "doubled": len(seqs) - len(set(seqs)),
            "out of order": sum(b <= a for a, b in pairwise(seqs)),
            "changed": sum(row not in known for row in theirs),
        }
        findings += [
            Finding("log", problem, f"lane {lane}", n) for problem, n in counts.items() if n
        ]
    return findings


def _compare_points(
    place: str, where: str, wanted: Sequence[Point], found: Sequence[Point]
) -> list[Finding]:
    if list(wanted) == list(found):
        return []
    want, have = Counter(wanted), Counter(found)
    missing, extra = (want - have).total(), (have - want).total()
    if not missing and not extra:
        moved = sum(a != b for a, b in zip(wanted, found, strict=True))
        return [Finding(place, "out of order", where, moved)]
    known = sum(n for point, n in (have - want).items() if point in want)
    counts = {"missing": missing, "doubled": known, "changed": extra - known}
    return [Finding(place, problem, where, n) for problem, n in counts.items() if n]


def _not_in_order(wanted: Sequence[Point], found: Sequence[Point]) -> int:
    """How many of `wanted` cannot be met in `found` while walking both forward."""
    absent = 0
    position = 0
    for point in wanted:
        try:
            position = found.index(point, position) + 1
        except ValueError:
            absent += 1
    return absent
