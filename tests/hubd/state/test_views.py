"""Questions find what they want by an index, however much else there is."""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from edgesync.model import EventType, series_id
from hubd.project import directory
from hubd.project.directory import Declaration
from hubd.state import open_state, tables, views

NAMES = [("meter", f"P{n}") for n in range(20)]


def test_a_series_is_found_by_its_name_without_reading_the_others(tmp_path: Path) -> None:
    def enter(connection: sa.Connection) -> None:
        declared = {series_id(*name): Declaration(*name) for name in NAMES[:-1]}
        rows = directory.enter(connection, "barn", [series_id(*name) for name in NAMES])
        directory.declare(connection, "barn", declared)
        newest = [
            {"ref": row.ref, "points": 1, "time_ns": 1, "vtype": 1, "bits": row.ref} for row in rows
        ]
        connection.execute(tables.latest.insert(), newest)

    asked: list[tuple[str, Any]] = []
    with contextlib.closing(open_state(tmp_path / "state.db", b"g" * 16)) as state:
        state.write_now(enter)

        @sa.event.listens_for(state.engines.reader, "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            asked.append((statement, parameters))

        found = state.read_now(partial(views.find_series, edge="barn", entity="meter", key="P7"))
        assert found is not None
        assert (found.series, found.key) == (series_id("meter", "P7"), "P7")
        statement, parameters = asked[-1]
        plan = state.read_now(
            lambda c: c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        )
        assert "(edge=? AND series=?)" in " ".join(row.detail for row in plan)
        for name in (NAMES[-1], ("meter", "no such")):  # not declared, and not there
            edge, key = name
            assert (
                state.read_now(partial(views.find_series, edge="barn", entity=edge, key=key))
                is None
            )


def test_a_message_that_was_refused_says_nothing_of_where_its_device_is(tmp_path: Path) -> None:
    bodies = [b'{"state":"offline","reason":"gone"}', b'{"state":"online","refused":["no JSON"]}']
    rows = [
        {
            "position": nth, "nth": 0, "edge": "barn", "lane": 1, "seq": nth, "origin": 1,
            "number": nth, "status": "stored", "type": int(EventType.SOURCE), "action": 0,
            "entity_type": 0, "entity": "pump", "body": body, "reason": "", "time_ns": nth,
            "created_ns": nth, "stored_at_ns": nth, "hlc": 0,
        }
        for nth, body in enumerate(bodies, 1)
    ]  # fmt: skip
    with contextlib.closing(open_state(tmp_path / "state.db", b"g" * 16)) as state:
        state.write_now(lambda c: c.execute(tables.edge_events.insert(), rows))
        [found] = state.read_now(partial(views.device_events, edge="barn", limit=10))
    assert found.body == {"state": "offline", "reason": "gone"}
