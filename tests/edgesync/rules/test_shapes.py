"""Twenty chains of public shape run, in every generation, and lead to what they must."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from edgesync.rules import effects as wanted
from edgesync.rules.effects import Effect
from edgesync.rules.message import device_message
from edgesync.rules.node import ScriptAnswer, ScriptCall
from edgesync.rules.worker.supervisor import ScriptWorker
from tests.edgesync.rules.chains import START_NS, Site, loaded
from tests.edgesync.rules.shapes import SHAPES, Post, Shape


def shown(effect: Effect) -> tuple[str, Any]:
    match effect:
        case wanted.SaveReadings(readings):
            entity = readings[0].entity
            name = "save" if entity in ("d1", "barn") else f"save of {entity}"
            return (name, {one.key: one.value for one in readings})
        case wanted.PushReadings(readings):
            return ("push", {one.key: one.value for one in readings})
        case wanted.PushEvent(event):
            body = json.loads(event.body)
            return ("event", body.get("values", body))
        case wanted.TellAlarm(alarm):
            return ("alarm", f"{alarm.type} {alarm.status}")
        case wanted.SetAttributes(_, _, values):
            return ("attributes", dict(values))
        case wanted.CallDevice(method=method):
            return ("call", method)
        case wanted.ReplyToDevice(_, _, data):
            return ("reply", data)
        case wanted.LogLine(_, text):
            return ("log", text)
    raise AssertionError(effect)


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Shape, Site]]:
    shape: Shape = request.param
    worker = ScriptWorker(loaded(*shape.files, has_worker=True).scripts)
    assert worker.check() == {}

    def ask(call: ScriptCall) -> ScriptAnswer:
        return worker.call(call, START_NS // 1_000_000)

    site = Site(*shape.files, ask=ask)
    shape.prepare(site)
    try:
        yield shape, site
    finally:
        worker.close()


@pytest.mark.slow
@pytest.mark.feature("S18")
def test_a_chain_of_public_shape_leads_to_what_it_must(running: tuple[Shape, Site]) -> None:
    shape, site = running
    for at, post in enumerate(shape.posts):
        found: list[Effect] = []
        if post.data is not None:
            found += site.send(message_of(post, at))
        if post.wait_s:
            found += site.wait(post.wait_s)
        assert [shown(effect) for effect in found] == post.expected, (shape.name, at)


def message_of(post: Post, at: int) -> Any:
    found = device_message(post.kind, post.entity, post.data, START_NS + at * 10**9)
    return found.with_metadata(**dict(post.metadata))


def test_there_are_twenty_and_they_are_like_those_that_were_counted() -> None:
    assert len({shape.name for shape in SHAPES}) == 20
    nodes = [node for shape in SHAPES for raw in shape.files for node in nodes_of(raw)]
    scripted = [one for one in nodes if {"jsScript", "alarmDetailsBuildJs"} & one.keys()]
    languages = [one.get("scriptLang") for one in scripted]
    assert {None, "JS", "TBEL"} == set(languages)
    assert sorted(len(nodes_of(shape.files[0])) for shape in SHAPES)[-1] == 119


def nodes_of(raw: bytes) -> list[dict[str, Any]]:
    return [one["configuration"] for one in json.loads(raw)["metadata"]["nodes"]]
