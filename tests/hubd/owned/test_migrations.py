"""Owned state of every earlier shape becomes the present one, with a copy kept beside it."""

import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgesync.errors import StoreVersion
from edgesync_transport.keys import new_key_pair
from hubd.errors import EnrolRefused, OwnedUnusable
from hubd.owned import open_owned
from hubd.owned.database import FILE
from hubd.owned.migrate import MIGRATIONS
from hubd.registry import DEFAULT_TENANT, NAME_PATTERN, Registry, open_registry

pytestmark = pytest.mark.feature("S6", "C14")

GOLDEN = Path(__file__).parents[2] / "golden" / "registry"
SHAPES = sorted(path.stem for path in GOLDEN.glob("*.sql"))
WITHOUT_TENANTS = [shape for shape in SHAPES if shape != "4-tenants"]
COPY = f"{FILE}.before-{MIGRATIONS.newest}"
# "Acme GmbH" is no name of a folder.
GMBH = "Acme-GmbH-033aedd8"


def key(number: int) -> str:
    return f"{number:02}".ljust(40, "k")


def lay(folder: Path, shape: str) -> Path:
    """Put a registry of an old shape into the folder of a hub."""
    with closing(sqlite3.connect(folder / FILE)) as db:
        db.executescript((GOLDEN / f"{shape}.sql").read_text())
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    return folder / FILE


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def schema(path: Path) -> list[str]:
    return sorted(line for line in dump(path) if line.startswith("CREATE"))


def edges_of(registry: Registry) -> dict[str, tuple[str, bool, tuple[str, ...]]]:
    return {edge.name: (edge.tenant, edge.is_revoked, edge.keys) for edge in registry.edges.all()}


def test_a_numbered_registry_is_copied_and_migrated_from_where_it_is(tmp_path: Path) -> None:
    owned = open_owned(tmp_path, lazily=True)
    owned.prepare(to="0001")
    owned.close()
    before = dump(tmp_path / FILE)
    with closing(open_registry(tmp_path)) as registry:
        registry.enrolments.invite("barn", valid_s=60)
    assert dump(tmp_path / COPY) == before
    assert schema(tmp_path / FILE) != [line for line in before if line.startswith("CREATE")]


def test_every_shape_is_here() -> None:
    assert len(SHAPES) == 6


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_an_old_registry_says_the_same_after_it(tmp_path: Path, shape: str) -> None:
    lay(tmp_path, shape)
    gmbh = "Acme-GmbH" if shape == "4-tenants" else GMBH
    expected = {
        "barn": (DEFAULT_TENANT, False, (key(1),)),
        "mill": ("acme", False, (key(2),)),
        "shop": (gmbh, False, (key(3),)),
        "shed": (DEFAULT_TENANT, False, ()),
        "lost": ("acme", True, ()),
    }
    lost = [key(5)]
    if "1" not in shape:
        expected["old"] = ("acme", False, (key(7),))
        lost += [key(6)]
    if shape in ("3-guests", "4-tenants"):
        lost += [key(8)]  # of an edge that was forgotten
    if "after" in shape:
        expected["new"] = (DEFAULT_TENANT, False, (key(9),))
    if shape == "4-tenants":
        expected["site"] = ("acme", False, ())
    with closing(open_registry(tmp_path)) as registry:
        assert edges_of(registry) == expected
        owners = {name: tenant for name, (tenant, _, _) in expected.items()}
        gone = {"test": DEFAULT_TENANT} if shape == "4-tenants" else {}
        assert registry.edges.owners() == owners | gone
        tenants = [tenant.name for tenant in registry.tenants.all()]
        assert tenants == sorted({*owners.values(), DEFAULT_TENANT})
        assert registry.edges.live_keys() == {
            public: name for name, (_, _, keys) in expected.items() for public in keys
        }
        for public in lost:
            token = registry.enrolments.invite("shed", valid_s=60, again=True)
            with pytest.raises(EnrolRefused, match="was revoked"):
                registry.enrolments.redeem(token.routing_key, token.secret, public)


def test_tenants_and_tokens_are_as_they_were(tmp_path: Path) -> None:
    lay(tmp_path, "4-tenants")
    with closing(open_registry(tmp_path)) as registry:
        (token,) = registry.api_tokens.all()
        assert (token.sha256, token.tenant, token.label) == ("ab" * 32, "acme", "their dashboard")
        assert not token.may_write
        assert {edge.name: edge.site for edge in registry.edges.all()}["site"] == "Hall 4"
        with pytest.raises(Exception, match="gone was removed"):
            registry.tenants.add("gone")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_that_was_given_out_before_is_good_after_it(tmp_path: Path, shape: str) -> None:
    lay(tmp_path, shape)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        ((routing_key, expires_ns),) = db.execute(
            "SELECT routing_key, expires_ns FROM enrolment WHERE edge = 'shed'"
        )
    mine = new_key_pair().public
    with closing(open_registry(tmp_path, clock_ns=lambda: expires_ns)) as registry:
        assert registry.enrolments.redeem_as_guest(routing_key, mine) == "shed"
        assert registry.edges.live_keys()[mine] == "shed"


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_is_kept_once_and_the_shape_is_that_of_a_new_one(tmp_path: Path, shape: str) -> None:
    before = dump(lay(tmp_path, shape))
    (tmp_path / "new").mkdir()
    for folder in (tmp_path, tmp_path / "new"):
        open_registry(folder).close()
    assert schema(tmp_path / FILE) == schema(tmp_path / "new" / FILE)
    assert dump(tmp_path / COPY) == before
    assert (tmp_path / COPY).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "new" / COPY).exists()
    after = dump(tmp_path / FILE)
    (tmp_path / COPY).unlink()
    open_registry(tmp_path).close()
    assert dump(tmp_path / FILE) == after
    assert not (tmp_path / COPY).exists()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = lay(tmp_path, "1-keys")
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE VIEW change_counter AS SELECT 1")
    before = dump(path)
    with pytest.raises(OwnedUnusable, match="change_counter already exists"):
        open_registry(tmp_path)
    assert dump(path) == before == dump(tmp_path / COPY)


def test_a_hub_and_a_command_may_both_make_it(tmp_path: Path, owned_url: sa.URL | None) -> None:
    def opened(_nth: int) -> Registry:
        return open_registry(tmp_path, owned_url)

    with ThreadPoolExecutor(4) as threads:
        for registry in threads.map(opened, range(4)):
            assert [tenant.name for tenant in registry.tenants.all()] == [DEFAULT_TENANT]
            registry.close()


def test_a_hub_and_a_command_may_both_migrate(tmp_path: Path) -> None:
    before = dump(lay(tmp_path, "1-keys"))
    with ThreadPoolExecutor(4) as threads:
        registries = list(threads.map(open_registry, [tmp_path] * 4))
    for registry in registries:
        assert len(registry.edges.all()) == 5
        registry.close()
    assert dump(tmp_path / COPY) == before


@pytest.mark.feature("K6")
def test_what_a_newer_version_made_is_refused_untouched(
    tmp_path: Path, owned_url: sa.URL | None
) -> None:
    with closing(open_registry(tmp_path, owned_url)) as registry:
        with registry.owned.change() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
        known = int(MIGRATIONS.newest)
        with pytest.raises(StoreVersion, match="upgrade edgesync") as refused:
            open_registry(tmp_path, owned_url)
        assert (refused.value.found, refused.value.known) == (999, known)
        assert str(refused.value).startswith(registry.name)
        with registry.owned._engine.begin() as connection:
            assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0999"


def test_names_of_an_earlier_version_become_names_of_folders(tmp_path: Path) -> None:
    """`--tenant` was any text once: a folder of that name may lie anywhere."""
    texts = ("..", "../../etc", "Acme GmbH", "", "x" * 200, "acme", "Acme-GmbH")
    path = lay(tmp_path, "1-keys")
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM enrolment")
        db.execute("DELETE FROM key")
        db.execute("DELETE FROM edge")
        for number, text in enumerate(texts):
            db.execute(
                "INSERT INTO edge (name, tenant, created_ns) VALUES (?, ?, 1)",
                (f"edge{number}", text),
            )
        db.commit()
    for _ in range(2):
        with closing(open_registry(tmp_path)) as registry:
            owners = registry.edges.owners()
            assert {edge.name: edge.tenant for edge in registry.edges.all()} == owners
            assert len(set(owners.values())) == len(texts)
            assert all(re.fullmatch(NAME_PATTERN, name) for name in owners.values())
            assert {"acme", "Acme-GmbH"} < set(owners.values())
            tenants = {tenant.name for tenant in registry.tenants.all()}
            assert tenants == {*owners.values(), DEFAULT_TENANT}


def test_an_edge_that_an_earlier_version_enrolled_is_its_tenants(tmp_path: Path) -> None:
    """After a return to that version, say: its keys were the default tenant's."""
    path = lay(tmp_path, "4-tenants")
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM owner WHERE edge = 'mill'")
        db.commit()
    with closing(open_registry(tmp_path)) as registry:
        assert registry.edges.owners()["mill"] == "acme"
