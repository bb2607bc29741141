"""A registry that was emptied, deleted or replaced is noticed: nothing of it is taken for ours."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from edgesync.errors import StoreVersion
from hubd.errors import OwnedReplaced, OwnedUnusable
from hubd.owned import tables
from hubd.registry import Registry, open_registry
from hubd.registry.known import FILE, Known, forget_identity, identity_of, load, save
from tests.hubd.conftest import RegistryPlace

pytestmark = pytest.mark.feature("S6", "K6")


@pytest.fixture
def registry(registry_place: RegistryPlace) -> Iterator[Registry]:
    """Return the registry that the hub knows; it has one edge."""
    with closing(open_registry(registry_place.folder, registry_place.url)) as found:
        found.enrolments.invite("barn", valid_s=900)
        know(registry_place, found)
        yield found


def know(place: RegistryPlace, registry: Registry) -> None:
    changes = registry.changes()
    assert changes is not None
    save(place.folder, Known(1, changes, registry.owned.identity))


def names(registry: Registry) -> list[str]:
    return [edge.name for edge in registry.edges.all()]


def refuses(registry: Registry, problem: str) -> None:
    with pytest.raises(OwnedReplaced, match=f"{problem}; put the registry back.*registry.known"):
        registry.changes()
    with pytest.raises(OwnedReplaced, match=problem):
        registry.enrolments.invite("shed", valid_s=900)


def test_where_it_was_none_is_made(registry: Registry, registry_place: RegistryPlace) -> None:
    registry_place.take_away()
    problem = "holds no registry|is not there"
    refuses(registry, f"({problem})")
    with pytest.raises(OwnedReplaced, match=problem):  # as a command beside the hub does
        open_registry(registry_place.folder, registry_place.url)
    assert registry_place.is_empty
    registry_place.put_back()
    assert names(registry) == ["barn"]
    registry.enrolments.invite("shed", valid_s=900)
    assert registry.changes() is not None


def test_another_in_its_place_is_left_alone(
    registry: Registry, registry_place: RegistryPlace
) -> None:
    registry_place.take_away()
    (registry_place.folder / FILE).rename(registry_place.folder / "known.aside")
    with closing(open_registry(registry_place.folder, registry_place.url)) as other:
        other.enrolments.invite("theirs", valid_s=900)
        (registry_place.folder / "known.aside").rename(registry_place.folder / FILE)
        refuses(registry, "holds another registry than this hub's")
        with pytest.raises(OwnedReplaced, match="another registry"):
            open_registry(registry_place.folder, registry_place.url)
        assert names(other) == ["theirs"]
    registry_place.put_back()
    assert names(registry) == ["barn"]


def test_one_that_was_replaced_on_purpose_is_taken(
    registry: Registry, registry_place: RegistryPlace
) -> None:
    registry_place.take_away()
    known = registry.owned.identity
    forget_identity(registry_place.folder)
    with closing(open_registry(registry_place.folder, registry_place.url)) as other:
        assert names(other) == []
        assert other.owned.identity not in ("", known)


def test_one_that_a_newer_version_has_migrated_is_used_no_more(registry: Registry) -> None:
    with registry.owned.change() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    for _ in range(2):
        with pytest.raises(StoreVersion, match="upgrade edgesync"):
            registry.changes()
        with pytest.raises(StoreVersion):
            registry.enrolments.invite("shed", valid_s=900)


def test_one_of_a_newer_version_that_is_put_in_its_place_is_away(tmp_path: Path) -> None:
    """The tasks of the hub wait for what is away; nothing else would they survive."""
    path = tmp_path / "registry.db"
    with closing(open_registry(tmp_path)) as registry:
        registry.enrolments.invite("barn", valid_s=900)
        shutil.copy(path, tmp_path / "ours")
        shutil.copy(path, tmp_path / "newer")
        with closing(sqlite3.connect(tmp_path / "newer")) as newer:
            newer.execute("UPDATE alembic_version SET version_num = '0999'")
            newer.commit()
        (tmp_path / "newer").rename(path)
        for _ in range(2):
            with pytest.raises(OwnedUnusable, match="upgrade edgesync"):
                registry.changes()
        (tmp_path / "ours").rename(path)
        assert names(registry) == ["barn"]


def test_histories_that_part_do_not_meet_at_one_count(registry: Registry) -> None:
    """Of a failover that lost a change, say: what was read of the one is not true of the other."""
    counts = set()
    before = registry.owned.change_count()
    for name in ("acme", "bolt", "cork"):
        registry.tenants.add(name)
        counts.add(registry.owned.change_count())
        with registry.owned._engine.execution_options(writes=True).begin() as connection:
            connection.execute(tables.change_counter.update().values(number=before))
    assert len(counts) == 3


def test_which_it_is_is_kept_for_the_next_start(
    registry: Registry, registry_place: RegistryPlace
) -> None:
    folder = registry_place.folder
    assert identity_of(folder) == registry.owned.identity != ""
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    known = load(folder)
    assert known is not None
    # A file of before has none: the next registry that is found is the one.
    (folder / FILE).write_bytes(msgspec.msgpack.encode((known.read_at_ns, known.changes)))
    assert load(folder) == Known(known.read_at_ns, known.changes)
    for torn in (b"", b"\x92\x01", b"no registry"):
        (folder / FILE).write_bytes(torn)
        assert load(folder) is None
        assert identity_of(folder) == ""
        forget_identity(folder)
        assert (folder / FILE).read_bytes() == torn
    shutil.rmtree(folder)
    assert load(folder) is None
