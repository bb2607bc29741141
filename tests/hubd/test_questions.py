"""The benchmark of questions, as small as it can be: all it asks is answered."""

from typing import Final

import pytest

from bench.benchmarks.questions import DAY_NS, HOUR_NS, Kind, measure

KINDS: Final = (
    Kind("plant", 1, 2, 60, HOUR_NS),
    Kind("site", 3, 2, 1800, DAY_NS),
)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def test_questions_are_answered_while_readings_come(database: str) -> None:
    found = measure(database, 0, kinds=KINDS, asks=2, cold=1)
    assert found["points"] >= 4 * (2 * 1440 + 3 * 2 * 48)
    wanted = {f"{sort} {kind.name}" for sort in ("latest", "day", "hours") for kind in KINDS}
    assert wanted == found["still_ms"].keys() == found["warm_ms"].keys() == found["cold_ms"].keys()
    # Readings came while it was asked: more may stay than were there at first.
    assert found["removal"]["readings"] < found["removal"]["readings_before"]
