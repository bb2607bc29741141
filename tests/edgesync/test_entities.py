"""Entities of a node: alarms and their events, what is removed elsewhere, plain programs."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from edgesync import EdgeNode, Event, Lane
from edgesync._native.write import Write
from edgesync.entities import alarms, attributes, records, relations
from edgesync.entities.alarms import Alarm, alarm_id
from edgesync.entities.keys import alarm_key, entity_key, own_rooms, relations_key
from edgesync.entities.model import EntityId, Scope, entity
from edgesync.entities.removal import plan_delete, remains
from edgesync.entities.view import Command, SpaceView
from edgesync.errors import CommandError, EntityError, StoreFull
from edgesync.events import EventQuery
from edgesync.model import Action
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("S8", "S11", "S19")

SCALE = entity("barn", "device", "Scale 7")
MAJOR = alarms.Severity.MAJOR


def told(node: EdgeNode, type_: str = "ALARM") -> list[dict[str, Any]]:
    """Return the bodies of the events of the scale, the oldest first."""
    found = node.events(EventQuery(entity="Scale 7"))
    return [
        {"action": one.action, **json.loads(one.body)}
        for one in reversed(found) if one.type == type_
    ]  # fmt: skip


def transitions(node: EdgeNode) -> list[tuple[int, str, str]]:
    return [(one["occurrence"], one["transition"], one["by"]) for one in told(node)]


def hub_view(sites: Sites) -> SpaceView:
    return SpaceView(sites.cells.space, sites.cells.now_ms)


def at_hub(sites: Sites) -> Alarm:
    (found,) = alarms.all_alarms(hub_view(sites), "barn")
    return found


async def test_an_alarm_is_acknowledged_and_cleared_at_the_hub(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    async with sites.node("barn") as node:
        raised = node.entities.raise_alarm(
            "device", "Scale 7", "Too heavy", "CRITICAL", details={"kg": 900}, by="rule"
        )
        assert raised.status == "ACTIVE_UNACK"
        await until(lambda: transitions(node) == [(1, "raised", "rule")])
        async with sites.hub():
            await settle(node)
            found = at_hub(sites)
            assert (found.status, found.raised.details) == ("ACTIVE_UNACK", {"kg": 900})
            await sites.answers.run_commands(alarms.plan_ack(found, sites.cells.now_ms(), "ann"))
            await until(lambda: len(told(node)) == 2)
            await settle(node)
            assert not alarms.untold(at_hub(sites))  # the hub sees that the edge has it
        async with sites.hub(is_reachable=False):
            pass
        node.entities.raise_alarm("device", "Scale 7", "Too heavy", "MAJOR")
        async with sites.hub():
            await sites.answers.run_commands(
                alarms.plan_clear(at_hub(sites), sites.cells.now_ms(), "ann")
            )
            await until(lambda: len(told(node)) == 4)
            again = node.entities.raise_alarm("device", "Scale 7", "Too heavy", "MAJOR")
            assert (again.n, again.status) == (2, "ACTIVE_UNACK")
            node.entities.clear_alarm(again.id, "rule")
            await until(lambda: len(told(node)) == 6)
            await settle(node)
            assert at_hub(sites).status == "CLEARED_UNACK"
        assert transitions(node) == [
            (1, "raised", "rule"), (1, "acked", "ann"), (1, "severity", "rule"),
            (1, "cleared", "ann"), (2, "raised", ""), (2, "cleared", "rule"),
        ]  # fmt: skip
        assert [one["action"] for one in told(node)] == [
            Action.ADDED.name, Action.ALARM_ACK.name, Action.UPDATED.name, Action.ALARM_CLEAR.name,
            Action.ADDED.name, Action.ALARM_CLEAR.name,
        ]  # fmt: skip


@pytest.mark.parametrize("is_alarm", [True, False])
async def test_a_damaged_row_of_an_entity_stops_no_site(tmp_path: Path, is_alarm: bool) -> None:
    """What can be read of the others goes on: at a start, with each alarm, when asked."""
    sites = Sites(tmp_path)
    with sites.node("barn") as node:
        for name in ("Scale 5", "Scale 6", "Scale 7"):
            one = node.entities.id("device", name)
            node.entities.save("device", name)
            plan = alarms.plan_raise(node.entities.view, one, "Too heavy", MAJOR, 1_790_000_000_000)
            node.entities.carry_out(plan)  # untold
            key = alarm_key("barn", alarms.alarm_id(one, "Too heavy"))
            if name == "Scale 5":
                node.cells.rows.put(b"k" + (key if is_alarm else entity_key(one)), b"\xff nonsense")
        node.entities.commit()
    async with sites.node("barn") as node:
        assert len(node.entities.alarms()) == 3 - is_alarm
        assert len(node.entities.records()) == 2 + is_alarm
        await until(lambda: transitions(node) == [(1, "raised", "")])
        node.entities.clear_alarm(alarms.alarm_id(SCALE, "Too heavy"))
        await until(lambda: len(told(node)) == 2)


async def test_an_alarm_whose_row_is_damaged_while_it_waits_is_left_out(tmp_path: Path) -> None:
    async with Sites(tmp_path).node("barn") as node:
        entities = node.entities
        bad = alarms.alarm_id(entities.id("device", "Scale 6"), "Too heavy")
        for name in ("Scale 6", "Scale 7"):
            one = entities.id("device", name)
            entities.apply(alarms.plan_raise(entities.view, one, "Too heavy", MAJOR, 1))
        node.cells.rows.put(b"k" + alarm_key("barn", bad), b"\xff nonsense")
        await until(lambda: transitions(node) == [(1, "raised", "")])


async def test_a_storm_of_alarms_is_told_with_few_commits(tmp_path: Path) -> None:
    """A critical one does not wait for three commits of each that came before it."""
    async with Sites(tmp_path).node("barn") as node:
        entities = node.entities
        for n in range(200):
            one, severity = entities.id("device", f"Scale {n}"), alarms.Severity.CRITICAL
            entities.apply(alarms.plan_raise(entities.view, one, "Too heavy", severity, 1))
        await entities.wait_durable()
        before = node.status().store.commits
        await until(lambda: node.status().lanes[Lane.CRITICAL].tail == 200)
        assert node.status().store.commits - before < 50


async def test_what_was_not_told_before_a_crash_is_told_at_the_next_start(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    with sites.node("barn") as node:
        plan = alarms.plan_raise(
            node.entities.view, SCALE, "Too heavy", alarms.Severity.MAJOR, 1_790_000_000_000
        )
        node.entities.carry_out(plan)  # … and there it ends
        assert told(node) == []
    async with sites.node("barn") as node:
        assert len(node.entities.alarms()) == 1
        await until(lambda: transitions(node) == [(1, "raised", "")])
    async with sites.node("barn") as node:
        assert len(node.entities.alarms(is_active=True)) == 1
        await trio.sleep(0.3)  # time to tell it twice
        assert len(told(node)) == 1


def test_a_plain_program_raises_and_clears(tmp_path: Path) -> None:
    with Sites(tmp_path).node("barn") as node:
        raised = node.entities.raise_alarm("device", "Scale 7", "Too heavy", "MINOR")
        node.entities.ack_alarm(raised.id, "ann")
        assert node.entities.clear_alarm(raised.id).status == "CLEARED_ACK"
        assert [one[1] for one in transitions(node)] == ["raised", "acked", "cleared"]
        with pytest.raises(EntityError, match="no alarm 'nowhere'"):
            node.entities.ack_alarm("nowhere")
        with pytest.raises(EntityError, match="severity: "):
            node.entities.raise_alarm("device", "Scale 7", "x", "LOUD")


@pytest.mark.feature("S23")
async def test_unassigned_while_the_edge_is_away_leaves_no_orphan(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    async with sites.node("barn") as node:
        entities = node.entities
        entities.save("device", "Scale 7", label="by the gate")
        entities.save("asset", "Barn")
        entities.relate(("asset", "Barn"), "Contains", ("device", "Scale 7"))
        entities.set_attributes("device", "Scale 7", {"firmware": "v1"})
        async with sites.hub():
            await settle(node)
            assert remains(hub_view(sites), SCALE) == {"client": 1, "entity": 2}
        async with sites.hub(is_reachable=False):
            pass
        entities.set_attributes("device", "Scale 7", {"firmware": "v2", "new": 1})
        entities.raise_alarm("device", "Scale 7", "Too heavy")
        async with sites.hub():
            await sites.answers.run_commands(plan_delete(hub_view(sites), SCALE))
            await until(lambda: bool(told(node, "ENTITY")))
            (audit,) = told(node, "ENTITY")
            assert audit["action"] == Action.UNASSIGNED_FROM_EDGE.name
            assert audit["removed"] == {"client": 2, "alarm": 1}
            await until(lambda: not remains(entities.view, SCALE))
            await settle(node)
            assert remains(hub_view(sites), SCALE) == {}
            assert entities.relations("asset", "Barn") == []
            assert [one.id.name for one in entities.records()] == ["Barn"]


async def test_what_looks_like_an_orphan_may_have_been_made_anew_at_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page tells that it was removed, the next one that it is there again."""
    async with Sites(tmp_path).node("barn") as node:
        entities = node.entities
        entities.save("device", "Scale 7")
        entities.delete("device", "Scale 7")
        entities.apply(attributes.plan_set(entities.view, SCALE, Scope.CLIENT, {"firmware": "v1"}))
        before = told(node, "ENTITY")

        async def hear_the_rest() -> None:
            entities.save("device", "Scale 7")

        monkeypatch.setattr(entities, "wait_settled", hear_the_rest)
        entities._journal.note_gone(SCALE)
        await until(lambda: not entities._journal._gone)
        assert entities.attributes("device", "Scale 7", "client") == {"firmware": "v1"}
        assert told(node, "ENTITY") == before


async def test_what_a_device_reports_while_an_orphan_is_told_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report makes the entity anew, and was acknowledged."""
    async with Sites(tmp_path).node("barn") as node:
        entities, emit = node.entities, node.recorder.emit
        entities.save("device", "Scale 7")
        entities.delete("device", "Scale 7")
        entities.apply(attributes.plan_set(entities.view, SCALE, Scope.CLIENT, {"old": 1}))

        async def emit_late(event: Event, lane: Lane = Lane.NORMAL) -> None:
            await emit(event, lane)
            entities.report("Scale 7", {"firmware": "v2"})
            await entities.wait_durable()

        monkeypatch.setattr(entities, "wait_settled", trio.lowlevel.checkpoint)
        monkeypatch.setattr(node.recorder, "emit", emit_late)
        entities._journal.note_gone(SCALE)
        await until(lambda: not entities._journal._gone)
        assert entities.find("device", "Scale 7") is not None
        assert entities.attributes("device", "Scale 7")["firmware"] == "v2"


@pytest.mark.parametrize("is_raised_anew", [False, True])
async def test_of_an_alarm_that_is_removed_while_it_is_told_nothing_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_raised_anew: bool
) -> None:
    async with Sites(tmp_path).node("barn") as node:
        entities, emit = node.entities, node.recorder.emit_together
        await trio.testing.wait_all_tasks_blocked()  # from here on a task tells of alarms
        raised = entities.raise_alarm("device", "Scale 7", "Too heavy")

        async def emit_late(events: Sequence[tuple[Event, Lane]]) -> None:
            monkeypatch.undo()
            await emit(events)
            entities.delete("device", "Scale 7")
            if is_raised_anew:
                entities.raise_alarm("device", "Scale 7", "Too heavy")

        monkeypatch.setattr(node.recorder, "emit_together", emit_late)
        await until(lambda: bool(told(node)) and not entities._journal._alarms)
        key = alarm_key("barn", raised.id)
        assert entities.view.is_there(key) == is_raised_anew
        assert transitions(node) == [(1, "raised", "")] * (1 + is_raised_anew)


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_a_removal_at_an_edge_reads_nothing_of_other_entities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_elsewhere: bool
) -> None:
    """Once it is known what leads to whom: one by a program, or one that was done at the hub."""
    async with Sites(tmp_path).node("barn") as node:
        entities, others, read = node.entities, set[bytes](), set[bytes]()
        await trio.testing.wait_all_tasks_blocked()  # at a start all are looked at
        for name in (*(f"Other {n}" for n in range(10)), "Scale 7"):
            one = entities.save("device", name)
            entities.relate(("device", name), "Manages", ("asset", "Barn"))
            raised = entities.raise_alarm("device", name, "Too heavy")
            others |= {relations_key(one), alarm_key("barn", raised.id)} if one != SCALE else set()
        entities.relate(("asset", "Barn"), "Contains", ("device", "Scale 7"))
        await until(lambda: not entities._journal._alarms)
        if is_elsewhere:
            entities.carry_out([[b"DEL", entity_key(SCALE)]])
        while entities.index.catch_up(100):
            pass
        field, fields, keys = SpaceView.field, SpaceView.fields, SpaceView.keys

        def noting_field(view: SpaceView, key: bytes, name: bytes) -> bytes | None:
            read.add(key)
            return field(view, key, name)

        def noting_fields(view: SpaceView, key: bytes) -> dict[bytes, bytes]:
            read.add(key)
            return fields(view, key)

        def noting_keys(*asked: Any) -> Iterator[bytes]:
            for key in keys(*asked):
                read.add(key)
                yield key

        with monkeypatch.context() as patch:
            patch.setattr(SpaceView, "field", noting_field)
            patch.setattr(SpaceView, "fields", noting_fields)
            patch.setattr(SpaceView, "keys", noting_keys)
            patch.setattr(entities, "wait_settled", trio.lowlevel.checkpoint)
            if is_elsewhere:
                entities._journal.note_gone(SCALE)
                await until(lambda: not entities._journal._gone)
            else:
                entities.delete("device", "Scale 7")
        assert relations_key(SCALE) in read
        assert not read & others
        assert remains(entities.view, SCALE) == {}
        assert entities.relations_from("asset", "Barn") == []


async def test_what_is_written_to_an_entity_that_never_was_stays(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    async with sites.node("barn") as node, sites.hub():
        plan = attributes.plan_set(hub_view(sites), SCALE, Scope.SHARED, {"limit": 1})
        assert node.entities.records() == []
        await sites.answers.run_commands(plan)
        await settle(node)
        await trio.sleep(0.3)  # time to remove it
        await settle(node)
    async with sites.node("barn") as node, sites.hub():
        assert node.entities.attributes("device", "Scale 7", "shared") == {"limit": 1}
        await settle(node)
        assert attributes.read(hub_view(sites), SCALE, Scope.SHARED) == {"limit": 1}
        assert told(node, "ENTITY") == []


async def test_created_at_the_hub_it_waits_for_its_parent(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    async with sites.node("barn") as node, sites.hub():
        entities = node.entities
        hub = hub_view(sites)
        plan = records.plan_save(hub, SCALE, {"profile": "scales"}, sites.cells.now_ms())
        plan += attributes.plan_set(hub, SCALE, Scope.SERVER, {"note": 1})
        await sites.answers.run_commands(plan)
        await settle(node)
        assert [(one.what, one.lacks) for one in entities.waiting()] == [
            ("device/Scale 7", "device_profile/scales")
        ]
        entities.save("device_profile", "scales")
        assert entities.waiting() == []
        assert entities.delete("device", "Scale 7") == {"server": 1, "entity": 2}
        await settle(node)
        assert records.find(hub, SCALE) is None


def check_index(node: EdgeNode, ends: Sequence[EntityId]) -> None:
    """Compare what the index finds with what is found without it."""
    view, index = node.entities.view, node.entities.index
    for one in ends:
        found = relations.relations_to(view, one, index.relations_to(one))
        scanned = relations.relations_to(view, one)
        assert list(chain(*found)) == list(chain(*scanned))
        assert alarms.alarms_of(view, one, index.alarms_of(one)) == alarms.alarms_of(view, one)
        assert plan_delete(view, one, index) == plan_delete(view, one)
        assert remains(view, one, index) == remains(view, one)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_what_leads_to_an_entity_is_found_whatever_has_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Commands, pages of the hub, what is taken back, and restarts."""
    random, sites = Random(seed), Sites(tmp_path)
    ends = [entity("barn", kind, name) for kind in ("asset", "device") for name in "abc"]
    refused = 0

    def refuse(write: Write) -> None:
        raise StoreFull(used_bytes=9, limit_bytes=10)

    def plan(view: SpaceView) -> Sequence[Command]:
        one, other = random.choice(ends), random.choice(ends)
        type_ = random.choice(["Uses", "Manages"])
        keys = [relations_key(one), relations_key(other), alarm_key("barn", alarm_id(one, type_))]
        match random.randrange(9):
            case 0 | 1 | 2:
                return relations.plan_relate(view, one, type_, other)
            case 3:
                return relations.plan_unrelate(view, one, type_, other)
            case 4 | 5:
                return alarms.plan_raise(view, one, type_, alarms.Severity.MAJOR, 1)
            case 6:
                return plan_delete(view, one)
            case 7:
                return [[b"DEL", random.choice(keys)], [b"SET", random.choice(keys), b"no hash"]]
            case _:
                copy: Command = [b"COPY", keys[0], keys[1], b"REPLACE"]
                return [copy, [b"HSET", keys[0], b"Odd\0device\0b", b"1", b"", b"2"]]

    def run(node: EdgeNode) -> None:
        nonlocal refused
        entities = node.entities
        try:
            commands = plan(entities.view)
            how = random.randrange(4)
            if how == 0:
                commands = [*commands, [b"INCRBY", b"n", b"what"]]
            entities.apply(commands)
            if random.randrange(2):
                check_index(node, ends)  # with what is not on disk yet
            if how > 1 and not node.part("keys").cells.busy_s():
                with monkeypatch.context() as patch:
                    patch.setattr(node.store, "submit_sync", refuse)
                    entities.commit()
        except (CommandError, EntityError):
            pass
        except StoreFull:
            refused += 1

    for _ in range(3):
        async with sites.node("barn") as node, sites.hub():
            for _ in range(10):
                for _ in range(random.randrange(9)):
                    run(node)
                if random.randrange(2):
                    await settle(node)
                with contextlib.suppress(CommandError, EntityError):
                    await sites.answers.run_commands(plan(hub_view(sites)))
                await settle(node)
                check_index(node, ends)
    assert refused


def test_a_relation_whose_removal_is_refused_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(write: Write) -> None:
        raise StoreFull(used_bytes=9, limit_bytes=10)

    with Sites(tmp_path).node("barn") as node:
        entities, barn = node.entities, entity("barn", "asset", "Barn")
        entities.relate(("asset", "Barn"), "Contains", ("device", "Scale 7"))
        assert len(entities.relations_to("device", "Scale 7")) == 1
        entities.apply(relations.plan_unrelate(entities.view, barn, "Contains", SCALE))
        assert entities.relations_to("device", "Scale 7") == []
        monkeypatch.setattr(node.store, "submit_sync", refuse)
        with pytest.raises(StoreFull):
            entities.commit()
        monkeypatch.undo()
        assert len(entities.relations_to("device", "Scale 7")) == 1


async def test_an_edge_has_no_entities_of_another(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    async with sites.node("barn") as barn, sites.node("shed") as shed, sites.hub():
        barn.entities.save("device", "Scale 7", label="barn's")
        shed.entities.save("device", "Scale 7", label="shed's")
        barn.set("price", 1)
        await settle(barn, shed)
        assert shed.get("price") == b"1"
        for node, label in ((barn, "barn's"), (shed, "shed's")):
            found = node.entities.find("device", "Scale 7")
            assert found is not None
            assert found.fields == {"label": label}
            assert len(node.command("KEYS", "@/*")) == 1  # type: ignore[arg-type]


async def test_an_edge_that_is_granted_few_keys_has_its_own_entities(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    sites.grants["barn"] = (b"site/", *own_rooms("barn"))
    async with sites.node("barn") as node, sites.hub():
        hub = hub_view(sites)
        plan = records.plan_save(hub, SCALE, {"label": "by the gate"}, sites.cells.now_ms())
        await sites.answers.run_commands([*plan, [b"SET", b"other", b"1"]])
        assert node.entities.records() == []  # opened, and with it the keys
        await settle(node)
        assert node.entities.find("device", "Scale 7") is not None
        assert node.get("other") is None
        assert node.status().granted == ("site/",)


@pytest.mark.slow
async def test_a_sync_that_is_cut_again_and_again_ends_with_the_same(tmp_path: Path) -> None:
    """Whatever moment the edge stops at, its disk goes on from there."""
    count = 2000
    sites = Sites(tmp_path)
    async with sites.hub():
        hub = hub_view(sites)
        plan = []
        for number in range(count):
            one = entity("barn", "device", f"Scale {number}")
            plan += records.plan_save(hub, one, {"label": f"{number}"}, sites.cells.now_ms())
            plan += attributes.plan_set(hub, one, Scope.SHARED, {"limit": number})
        await sites.answers.run_commands(plan)
        cuts = 0
        for stop_s in (0.01, 0.02, 0.04, 0.06, 0.1, 0.15):
            async with sites.node("barn") as node:
                node.entities.set_attributes("device", f"Scale {cuts}", {"seen": cuts})
                await trio.sleep(stop_s)
                cuts += len(node.entities.records(limit=count)) < count
        assert cuts  # some of them were in the middle
        async with sites.node("barn") as node:
            await settle(node)
            for view in (node.entities.view, hub):
                found = records.list_records(view, "barn", limit=2 * count)
                assert len(found) == count
                limits = [attributes.read(view, one.id, Scope.SHARED) for one in found]
                assert limits == [{"limit": int(one.fields["label"])} for one in found]
