"""Objects that a hub keeps: whole or not at all, each its tenant's, within limits."""

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesync.objects.model import OBJECTS_MAX, ObjectRef, listing_of
from edgesync.store.directory import free_bytes
from edgesync_transport.keys import new_key_pair
from hubd.errors import EdgeUnknown, TenantUnknown
from hubd.objects import store as module
from hubd.objects.store import ObjectRefused, Objects, ObjectUnknown
from hubd.registry import Registry, open_registry
from tests.hubd.test_settings_act import settings_of

pytestmark = pytest.mark.feature("S22")

DATA = b"model" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with contextlib.closing(open_registry(tmp_path)) as registry:
        registry.tenants.add("acme")
        for edge, tenant in (("barn", "default"), ("shed", "default"), ("shop", "acme")):
            token = registry.enrolments.invite(edge, valid_s=900, tenant=tenant)
            registry.enrolments.redeem(token.routing_key, token.secret, new_key_pair().public)
        yield registry


@pytest.fixture
def objects(registry: Registry, tmp_path: Path) -> Objects:
    return Objects(registry.owned, tmp_path / "objects")


def put(objects: Objects, name: str, data: bytes = DATA, tenant: str = "default") -> str:
    return objects.put(tenant, name, io.BytesIO(data)).sha256


def files(objects: Objects) -> set[str]:
    return {path.name for path in objects.folder.iterdir()}


def test_what_is_put_is_kept_by_its_contents_once(objects: Objects) -> None:
    made = objects.put("default", "model", io.BytesIO(DATA))
    assert (made.sha256, made.size, made.edges) == (SHA256, len(DATA), ())
    assert objects.path(SHA256).read_bytes() == DATA
    assert objects.path(SHA256).stat().st_mode & 0o777 == 0o600
    put(objects, "same")
    put(objects, "theirs", tenant="acme")
    assert files(objects) == {SHA256}
    assert [one.name for one in objects.all("default")] == ["model", "same"]
    assert [one.name for one in objects.all()] == ["theirs", "model", "same"]
    with pytest.raises(ObjectUnknown, match="hubd object list"):
        objects.one("acme", "model")


def test_a_name_has_its_newest_bytes_and_the_old_ones_go_an_hour_later(objects: Objects) -> None:
    put(objects, "model", b"old")
    old = objects.one("default", "model").sha256
    put(objects, "model")
    assert objects.sweep() == 0  # somebody may be about to name it
    hour_ago = time.time() - module.UNNAMED_S - 1
    for name in (old, SHA256):
        os.utime(objects.path(name), (hour_ago, hour_ago))
    (objects.folder / ".draft-of-a-killed-command").write_bytes(b"x")
    os.utime(objects.folder / ".draft-of-a-killed-command", (hour_ago, hour_ago))
    assert objects.sweep() == 2
    assert files(objects) == {SHA256}


@pytest.mark.setting("hub.toml objects.size_max", "hub.toml objects.tenant_max")
def test_limits_are_named_with_what_to_do_and_nothing_is_left(
    registry: Registry, tmp_path: Path
) -> None:
    settings = settings_of(objects={"size_max": 10, "tenant_max": 15})
    objects = Objects(registry.owned, tmp_path / "objects", settings.objects)
    with pytest.raises(ObjectRefused, match=r"size: .*`size_max` under \[objects\]"):
        put(objects, "model", b"x" * 11)
    with pytest.raises(ObjectRefused, match="empty"):
        put(objects, "model", b"")
    assert files(objects) == set()
    put(objects, "one", b"x" * 10)
    put(objects, "same", b"x" * 10)  # counted once
    put(objects, "theirs", b"y" * 10, tenant="acme")
    with pytest.raises(ObjectRefused, match=r"`tenant_max`") as refused:
        put(objects, "two", b"z" * 10)
    assert refused.value.field == "size"
    assert len(files(objects)) == 2
    put(objects, "two", b"z" * 5)
    put(objects, "two", b"w" * 5)  # in its place
    with pytest.raises(TenantUnknown):
        put(objects, "x", tenant="nobody")


@pytest.mark.setting("hub.toml objects.reserve")
def test_objects_do_not_take_the_room_of_the_log(registry: Registry, tmp_path: Path) -> None:
    objects = Objects(registry.owned, tmp_path / "objects", settings_of().objects)
    put(objects, "model")
    settings = settings_of(objects={"reserve": free_bytes(tmp_path) + (1 << 40)})
    full = Objects(registry.owned, tmp_path / "objects", settings.objects)
    with pytest.raises(ObjectRefused, match=r"size: the disk .*`reserve` under \[objects\]"):
        put(full, "two", b"x")
    assert files(objects) == {SHA256}


def test_edges_are_assigned_objects_of_their_tenant(objects: Objects) -> None:
    put(objects, "model")
    assert objects.assign("default", "model", ["barn"]) == ["barn"]
    ref = ObjectRef("model", SHA256, len(DATA))
    assert objects.listings() == {"barn": listing_of([ref])}
    assert objects.one("default", "model").edges == ("barn",)
    with pytest.raises(EdgeUnknown):
        objects.assign("default", "model", ["shop"])
    with pytest.raises(ObjectUnknown):
        objects.assign("acme", "model", ["shop"])
    assert objects.assign("default", "model", []) == ["barn", "shed"]
    put(objects, "model", b"newer")
    (newer,) = objects.listings()["shed"].wanted
    assert newer.size == 5


def test_what_is_unassigned_is_to_be_removed_until_the_edge_has_done_so(objects: Objects) -> None:
    put(objects, "model")
    objects.assign("default", "model", ["barn", "shed"])
    with pytest.raises(ObjectRefused, match="unassign"):
        objects.remove("default", "model")
    objects.unassign("default", "model", ["barn"])
    assert objects.listings()["barn"] == listing_of([], ["model"])
    objects.removed("barn", ["model"])
    objects.removed("shed", ["model"])  # it is to hold it: nothing is forgotten
    assert set(objects.listings()) == {"shed"}
    objects.unassign("default", "model", [])
    objects.remove("default", "model")
    assert objects.all() == []
    objects.unassign("default", "of-another-hub", ["barn"])  # the hub need not know it
    assert objects.listings()["barn"].removed == ("model", "of-another-hub")


def test_an_edge_holds_so_many_and_no_more(objects: Objects) -> None:
    put(objects, "model")
    for n in range(OBJECTS_MAX):
        put(objects, f"n{n}", b"x")
    for n in range(OBJECTS_MAX):
        objects.assign("default", f"n{n}", ["barn"])
    with pytest.raises(ObjectRefused, match="unassign others"):
        objects.assign("default", "model", ["barn"])
    objects.assign("default", "n0", ["barn"])  # again


def test_an_edge_that_is_forgotten_takes_its_assignments_with_it(
    objects: Objects, registry: Registry
) -> None:
    put(objects, "model")
    objects.assign("default", "model", [])
    registry.edges.forget("barn")
    assert set(objects.listings()) == {"shed"}
