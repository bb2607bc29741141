"""What is asked is answered: each question once, with the contents of a known state."""

import time
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from hubd.api import Context, make_app
from hubd.api.tenancy import TenantHub
from hubd.link.rates import Slowdowns, Slowed
from hubd.log.base import LogStats
from hubd.log.retention import BACKUP, STATE_BACKUP, Standing
from hubd.project.base import Health
from hubd.project.gaps import Gap, note_gap
from hubd.state import State, tables
from tests.hubd.api.conftest import MINUTES
from tests.hubd.batches import START_NS
from tests.hubd.conftest import Opener
from tests.hubd.still import NOW_NS, StillHub

SECOND = 10**9
POWER = {"entity": "meter0", "key": "ActivePower"}
ALL = {"from": str(START_NS), "to": str(START_NS + MINUTES * 60 * SECOND)}


@pytest.fixture
def state(opener: Opener) -> State:
    """Whatever the database is, the answers are the same."""
    return opener()


def ask(client: httpx2.Client, path: str, **params: Any) -> Any:
    response = client.get(path, params=params)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def test_edges_tell_link_health_and_state(client: httpx2.Client) -> None:
    barn, shop = ask(client, "/api/v1/edges")["edges"]
    assert barn["link"]["lanes"][2] == {
        "lane": "bulk", "tail": 1000, "floor": 1000, "safe": 1000,
    }  # fmt: skip
    assert (barn["health"], shop["health"]) == ("good", "critical")
    assert barn["state"]["readings"] == 2 * MINUTES * 60 + 2
    assert (barn["state"]["dead"], barn["state"]["lost"]) == (1, 5)
    assert shop["state"]["readings"] == 0
    assert ask(client, "/api/v1/edges/barn") == barn


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/api/v1/edges?limit=2", 3),
        ("/api/v1/stats?limit=2", 3),
        ("/healthz", 0),
        ("/", 10),
    ],
)
def test_a_question_makes_the_view_of_an_edge_once(
    client: httpx2.Client, context: Context, path: str, made: int
) -> None:
    hub = context.hub
    assert isinstance(hub, StillHub)
    one = hub.all[0]
    hub.all = [msgspec.structs.replace(one, edge=f"edge{n}") for n in range(9)]
    hub.all.append(msgspec.structs.replace(one, edge="site", tenant="acme"))
    hub.views_made = 0
    assert client.get(path).status_code == 200
    assert hub.views_made == made


def test_a_tenant_has_no_views_made_of_the_edges_of_others(context: Context) -> None:
    hub = context.hub
    assert isinstance(hub, StillHub)
    hub.all.append(msgspec.structs.replace(hub.all[0], edge="site", tenant="acme"))
    theirs = TenantHub(hub, "acme")
    assert [view.edge for view in theirs.edges()] == ["site"]
    assert hub.views_made == 1
    theirs.link_events(edge=None, before=None, limit=9)
    theirs.slowed()
    assert hub.views_made == 1
    assert theirs.names("default") == ()


def test_edges_come_in_pages(client: httpx2.Client) -> None:
    first = ask(client, "/api/v1/edges", limit=1)
    assert [one["link"]["edge"] for one in first["edges"]] == ["barn"]
    second = ask(client, "/api/v1/edges", limit=1, after=first["next"])
    assert [one["link"]["edge"] for one in second["edges"]] == ["shop"]
    assert second["next"] is None
    page = ask(client, "/api/v1/stats", limit=1, after=first["next"])
    assert [one["edge"] for one in page["ledger"]] == ["shop"]


def test_latest_has_the_newest_value_of_each_series(client: httpx2.Client) -> None:
    latest = ask(client, "/api/v1/edges/barn/latest")["latest"]
    assert latest["meter0"]["ActivePower"]["value"] == MINUTES * 60 - 1
    assert latest["meter0"]["ActivePower"]["unit"] == "W"
    assert latest["door"]["IsOpen"]["value"] is True
    assert latest["door"]["Note"]["value"] == "left open"


def test_series_come_in_pages(client: httpx2.Client) -> None:
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = ask(client, "/api/v1/edges/barn/series", limit=3, **after)
        found += [one["key"] for one in page["series"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(found) == ["ActivePower", "Frequency", "IsOpen", "Note"]


def test_raw_history_comes_in_pages_without_hole_or_overlap(client: httpx2.Client) -> None:
    times: list[int] = []
    values: list[float] = []
    after: dict[str, str] = {}
    while True:
        page = ask(
            client, "/api/v1/edges/barn/history", **POWER, **ALL,
            resolution="raw", limit=700, **after,
        )  # fmt: skip
        assert page["resolution"] == "raw"
        times += page["raw"]["time_ns"]
        values += page["raw"]["value"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert times == [START_NS + n * SECOND for n in range(MINUTES * 60)]
    assert values == list(range(MINUTES * 60))


def test_minutes_have_min_max_mean_first_and_last(client: httpx2.Client) -> None:
    page = ask(
        client, "/api/v1/edges/barn/history", **POWER, **ALL, resolution="1m", limit=2
    )  # fmt: skip
    buckets = page["buckets"]
    assert buckets["time_ns"] == [START_NS, START_NS + 60 * SECOND]
    assert buckets["count"] == [60, 60]
    assert (buckets["min"], buckets["max"]) == ([0, 60], [59, 119])
    assert (buckets["first"], buckets["last"]) == ([0, 60], [59, 119])
    assert buckets["mean"] == [29.5, 89.5]
    following = ask(
        client, "/api/v1/edges/barn/history", **POWER, **ALL, limit=2, after=page["next"]
    )
    assert following["resolution"] == "1m"
    assert following["buckets"]["time_ns"][0] == START_NS + 120 * SECOND


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "resolution"), [(5000, "raw"), (MINUTES, "1m"), (MINUTES - 1, "1h")]
)
def test_auto_takes_the_finest_resolution_that_fits(
    client: httpx2.Client, limit: int, resolution: str
) -> None:
    page = ask(client, "/api/v1/edges/barn/history", **POWER, **ALL, limit=limit)
    assert page["resolution"] == resolution
    assert page["next"] is None or resolution == "1m"


def test_auto_makes_minutes_once(client: httpx2.Client, state: State) -> None:
    """Whether they fit is known from what is answered then: of a day a second, 86,400 points."""
    asked: list[str] = []

    @sa.event.listens_for(state.engines.reader, "before_cursor_execute")
    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    # A minute whose end only is asked for is shown, and does not count.
    whole = {"from": START_NS + 30 * 10**9, "to": START_NS + 3600 * 10**9}
    page = ask(client, "/api/v1/edges/barn/history", **POWER, **whole, limit=MINUTES - 1)
    assert page["resolution"] == "1m"
    assert page["buckets"]["time_ns"][0] == START_NS
    assert page["next"] is not None
    assert sum("FROM rollup_1m" in statement for statement in asked) == 1


def test_times_may_be_iso_or_relative(client: httpx2.Client) -> None:
    path = "/api/v1/edges/barn/history"
    iso = {"from": "2026-01-01T00:00:10Z", "to": "2026-01-01T01:00:12+01:00"}
    assert ask(client, path, **POWER, **iso)["raw"]["value"] == [10, 11]
    # It is 01:00 at this hub; the readings end at 00:30.
    relative = {"from": "-31m", "to": "-1799s"}
    assert ask(client, path, **POWER, **relative)["raw"]["value"] == list(range(1740, 1800))


def test_texts_and_booleans_have_a_history(client: httpx2.Client) -> None:
    path = "/api/v1/edges/barn/history"
    note = ask(client, path, entity="door", key="Note", **ALL)
    assert note["raw"]["value"] == ["left open"]
    is_open = ask(client, path, entity="door", key="IsOpen", **ALL)
    assert is_open["raw"]["value"] == [True]


def test_events_are_filtered_and_paged(client: httpx2.Client) -> None:
    path = "/api/v1/edges/barn/events"
    everything = ask(client, path)["events"]
    assert [one["status"] for one in everything[:3]] == ["lost", "dead", "stored"]
    assert len(everything) == 12
    (door,) = ask(client, path, type="attributes", text="SQUEAKS")["events"]
    assert door["body"] == {"text": "hinge <b>squeaks</b>"}
    assert ask(client, path, entity="meter0")["events"][0]["body"] == "fffe"
    first = ask(client, path, limit=7)
    rest = ask(client, path, limit=7, after=first["next"])
    assert first["events"] + rest["events"] == everything
    assert rest["next"] is None


def test_devices_are_shown_as_they_told_last(client: httpx2.Client) -> None:
    found = {one["entity"]: one for one in ask(client, "/api/v1/edges/barn/devices")["devices"]}
    assert list(found) == ["meter0", "odd", "pv0"]
    assert (found["meter0"]["state"], found["meter0"]["invalid"]) == (
        "online", {"Soc": "exception 2"},
    )  # fmt: skip
    assert (found["pv0"]["state"], found["pv0"]["reason"]) == ("offline", "no answer in 1 s")
    assert (found["pv0"]["changes"], found["pv0"]["time_ns"]) == (3, START_NS + 5)
    assert found["odd"]["state"] == ""


def test_link_events_are_filtered_and_paged(client: httpx2.Client) -> None:
    path = "/api/v1/link-events"
    assert [one["n"] for one in ask(client, path)["events"]] == [7, 6, 5, 4, 3, 2, 1]
    assert {one["edge"] for one in ask(client, path, edge="shop")["events"]} == {"shop"}
    page = ask(client, path, limit=4)
    assert [one["n"] for one in ask(client, path, after=page["next"])["events"]] == [3, 2, 1]


WINDOWS = "/api/v1/edges/barn/windows"


@pytest.mark.feature("L11")
def test_windows_are_merged_as_wanted(client: httpx2.Client) -> None:
    told = ask(client, WINDOWS, **POWER, **{"from": START_NS, "limit": 3})
    assert [(one["start_ns"], one["count"], one["mean"]) for one in told["windows"]] == [
        (START_NS + n * 60 * 10**9, 60, 60 * n + 29.5) for n in range(3)
    ]
    found = []
    after = None
    while True:
        more: dict[str, str] = {} if after is None else {"after": after}
        wanted: dict[str, object] = {"from": START_NS, "merge_s": 600, "limit": 2, **more}
        page = ask(client, WINDOWS, **POWER, **wanted)
        found += page["windows"]
        after = page["next"]
        if after is None:
            break
    assert [(one["parts"], one["count"], one["min"], one["max"]) for one in found] == [
        (10, 600, 600 * n, 600 * n + 599) for n in range(3)
    ]
    for one in found:
        assert abs(one["p99"] - (one["min"] + 0.99 * 599)) <= 0.01 * one["p99"]


def test_windows_that_do_not_fill_wider_ones_are_refused(client: httpx2.Client) -> None:
    answer = client.get(WINDOWS, params={**POWER, "merge_s": 90})
    assert answer.status_code == 400
    assert answer.json()["field"] == "merge_s"
    missing = client.get(WINDOWS, params={"entity": "meter0", "key": "Nothing"})
    assert missing.status_code == 404


def test_the_ledger_compares_what_can_be_counted(client: httpx2.Client) -> None:
    stats = ask(client, "/api/v1/stats")
    barn = stats["ledger"][0]
    assert barn["readings_in_state"] == 2 * MINUTES * 60 + 2
    assert barn["records_at_edge"] == barn["records_in_log"] == 1042
    assert [(one["name"], one["lag"]) for one in stats["projectors"]] == [
        ("telemetry", 0),
        ("events", 0),
        ("windows", 0),
    ]


def test_health_is_degraded_while_a_projector_fails(
    client: httpx2.Client, context: Context
) -> None:
    assert ask(client, "/healthz") == {"status": "ok", "problems": [], "is_working": True}
    progress = context.projectors.progress[0]
    progress.health, progress.error = Health.FAILING, "disk full"
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["problems"] == [
        "projector telemetry waits at 3, 0 entries behind: disk full"
    ]


def test_health_names_what_an_operator_should_know(client: httpx2.Client, context: Context) -> None:
    assert isinstance(context.hub, StillHub)
    context.hub.log = LogStats(entries=3, damaged=2, used_bytes=86, limit_bytes=100)
    progress = context.projectors.progress[1]
    progress.skipped, progress.newest_skip = 4, "RecordError: nonsense"
    beyond = tables.edge_totals.update().where(tables.edge_totals.c.edge == "barn")
    context.state.write_now(lambda c: c.execute(beyond.values(refused=7)))
    context.projectors.series.add("barn", 9000)
    context.hub.all[0] = msgspec.structs.replace(
        context.hub.all[0], slowed="too much", has_clone=True
    )  # fmt: skip
    north, barn = Slowed("north", "much too much"), Slowed("barn", "too much")
    context.hub.slowdowns = Slowdowns([north], [barn], {"barn": 3})
    response = client.get("/healthz")
    assert response.status_code == 200
    answer = response.json()
    assert (answer["status"], answer["is_working"]) == ("degraded", True)
    for words in (
        "projector events skipped 4 entries of the log, the newest: RecordError: nonsense",
        "the log uses 86 of 100 bytes (86 %)",
        "2 values of the log are damaged",
        "edge barn: 7 readings are in the log only",
        "edge barn has 9004 of 10000 series: at the limit new ones wait",
        "edge barn sends more than it may and keeps the rest: too much",
        "edge barn: two machines have its key and come in turn",
        "tenant north sends more than it may and keeps the rest: much too much",
    ):
        assert any(words in problem for problem in answer["problems"]), words
    assert ask(client, "/api/v1/stats")["problems"] == answer["problems"]
    assert "skipped 4 entries" in client.get("/").text
    lines = client.get("/metrics").text.splitlines()
    assert 'edgesync_hub_skips_total{projector="events"} 4.0' in lines
    assert "edgesync_hub_log_used_bytes 86.0" in lines
    assert "edgesync_hub_log_limit_bytes 100.0" in lines
    assert "edgesync_hub_rebuilds_total 0.0" in lines
    assert "edgesync_hub_fresh_readings 3602.0" in lines
    assert 'edgesync_hub_refused_total{edge="barn"} 7.0' in lines
    assert 'edgesync_hub_series{edge="barn"} 9004.0' in lines
    assert "edgesync_hub_series_limit 10000.0" in lines
    assert 'edgesync_hub_edge_slowed{edge="barn"} 1.0' in lines
    assert 'edgesync_hub_edge_slowed{edge="shop"} 0.0' in lines
    assert 'edgesync_hub_tenant_slowed{tenant="north"} 1.0' in lines
    assert 'edgesync_hub_edge_slowdowns_total{edge="barn"} 3.0' in lines
    context.hub.log = LogStats(entries=3, damaged=0, used_bytes=99, limit_bytes=100, is_full=True)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert "raise `limit` under [log]" in response.json()["problems"][0]


def test_a_database_that_does_not_answer_is_told_by_health(
    client: httpx2.Client, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/healthz").status_code == 200
    monkeypatch.setattr(state, "_writes_since", time.monotonic() - 60)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert "at one change for 60 s" in response.json()["problems"][0]


@pytest.mark.parametrize("opener", ["sqlite"], indirect=True)
def test_a_rotten_state_answers_503_and_is_named(
    client: httpx2.Client, context: Context, tmp_path: Path
) -> None:
    context.state.engines.dispose()
    path = Path(context.state.name)
    path.write_bytes(path.read_bytes()[:4096] + b"rot" * 40_000)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    response = client.get("/api/v1/edges")
    assert response.status_code == 503
    assert "made again from the log" in response.json()["remedy"]
    assert context.state.is_damaged
    health = client.get("/healthz")
    assert health.status_code == 503
    assert "the state is damaged" in health.json()["problems"][0]


@pytest.mark.feature("F11", "S12")
def test_metrics_are_what_prometheus_reads(client: httpx2.Client) -> None:
    response = client.get("/metrics")
    lines = response.text.splitlines()
    assert response.headers["content-type"].startswith("text/plain")
    assert 'edgesync_hub_readings_total{edge="barn"} 3602.0' in lines
    assert 'edgesync_hub_edge_state{edge="shop",state="lost"} 1.0' in lines
    assert 'edgesync_hub_lane_floor{edge="barn",lane="bulk"} 1000.0' in lines
    assert 'edgesync_hub_projector_lag{projector="events"} 0.0' in lines
    new = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert new.text.endswith("# EOF\n")


def problems_of(client: httpx2.Client) -> list[str]:
    problems: list[str] = client.get("/healthz").json()["problems"]
    return problems


@pytest.mark.feature("S32")
def test_health_says_what_keeps_a_log_from_dropping_its_oldest_entries(
    client: httpx2.Client, context: Context
) -> None:
    hub, standing = context.hub, Standing()
    assert isinstance(hub, StillHub)
    held = msgspec.structs.replace(context, retention=lambda: standing)
    client = TestClient(make_app(held), backend="trio")
    roomy = LogStats(entries=3, damaged=0, used_bytes=70, limit_bytes=100, oldest=7)
    short = msgspec.structs.replace(roomy, used_bytes=81)
    hub.log = short
    assert problems_of(client) == []  # it is being dropped from
    cursors = {"projector events": 12}
    standing = Standing(held_by="projector events", held_since_ns=NOW_NS, cursors=cursors)
    (problem,) = problems_of(client)
    assert "entries from 7 on stay for projector events, which is at 12; raise `limit`" in problem
    hub.log = roomy
    assert problems_of(client) == []
    standing = msgspec.structs.replace(standing, held_since_ns=NOW_NS - 301 * 10**9)
    (problem,) = problems_of(client)
    assert "entries from 7 on stay for projector events, which is at 12" in problem
    hub.log, standing = short, Standing(held_by=STATE_BACKUP, held_since_ns=NOW_NS)
    (problem,) = problems_of(client)
    assert "until a backup has the state that was made of them: make one (`hubd backup`)" in problem
    standing = Standing(held_by=BACKUP, held_since_ns=NOW_NS)
    (problem,) = problems_of(client)
    assert "until a backup has them" in problem
    text = client.get("/metrics").text
    assert 'edgesync_hub_log_held{by="no backup has it"} 1.0' in text
    assert "edgesync_hub_log_oldest 7.0" in text


@pytest.mark.feature("S32")
def test_what_is_not_in_a_state_that_was_made_again_is_told(
    client: httpx2.Client, context: Context
) -> None:
    gaps = [
        Gap(projector=name, after=0, until=41, before_ns=START_NS, found_ns=NOW_NS)
        for name in ("events", "telemetry")
    ]
    for gap in gaps:
        context.state.write_now(lambda c, gap=gap: note_gap(c, gap))  # type: ignore[misc]
    (problem,) = problems_of(client)
    assert problem.startswith("history before 2026-01-01 00:00:00+00:00 (entries 1 to 41 of the")
    assert "events, telemetry" in problem
    stats = client.get("/api/v1/stats").json()
    assert stats["history_from_ns"] == START_NS
    assert [gap["projector"] for gap in stats["gaps"]] == ["events", "telemetry"]
    assert "edgesync_hub_state_gaps 2.0" in client.get("/metrics").text
    # After a week it is no news any more, and stays in the answer.
    late = msgspec.structs.replace(context, now_ns=lambda: NOW_NS + 8 * 86400 * 10**9)
    client = TestClient(make_app(late), backend="trio")
    assert problems_of(client) == []
    assert len(client.get("/api/v1/stats").json()["gaps"]) == 2
