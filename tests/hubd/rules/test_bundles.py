"""Bundles of rule chains in owned state, over both databases: checked whole, kept in versions."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgesync.errors import RecordError
from edgesync.rules.bundle import BYTES_MAX, Bundle, unpack
from edgesync.rules.worker.supervisor import is_installed
from hubd.errors import EdgeUnknown
from hubd.owned import tables
from hubd.owned.dump import load_dump, write_dump
from hubd.registry import Registry, open_registry
from hubd.rules import bundles as bundles_module
from hubd.rules.bundles import Bundles, BundleUnknown, RulesRefused
from tests.edgesync.rules.chains import Node, exported

pytestmark = pytest.mark.feature("S18")

SAVE: Node = ("telemetry.TbMsgTimeseriesNode", "Save", {"defaultTTL": 0})
MAIL: Node = ("mail.TbSendEmailNode", "Mail", {})
KAFKA: Node = ("kafka.TbKafkaNode", "Stream", {})


def into(chain: str = "0b", label: str = "Go on") -> Node:
    return ("flow.TbRuleChainInputNode", label, {"ruleChainId": chain})


A = exported([into()], name="A").decode()
B = exported([SAVE], name="B", is_root=False, id={"id": "0b"}).decode()


@pytest.fixture
def registry(tmp_path: Path, owned_url: sa.URL | None) -> Iterator[Registry]:
    with closing(open_registry(tmp_path, owned_url)) as found:
        found.tenants.add("acme")
        found.enrolments.invite("barn", valid_s=900)
        found.enrolments.invite("shed", valid_s=900)
        found.enrolments.invite("mill", tenant="acme", valid_s=900)
        yield found


@pytest.fixture
def bundles(registry: Registry) -> Bundles:
    return Bundles(registry.owned, clock_ns=lambda: 10**18)


def test_what_does_not_run_is_refused_with_every_type_and_name_at_once(bundles: Bundles) -> None:
    files = {
        "one.json": exported([SAVE, MAIL, ("no.SuchNode", "What", {})], name="One").decode(),
        "two.json": exported([KAFKA, into("77", "Else")], name="Two", is_root=False).decode(),
    }
    with pytest.raises(RulesRefused) as refused:
        bundles.upload("default", "cold", files)
    told = str(refused.value)
    for missing in ("mail.TbSendEmailNode", "'Mail'", "no.SuchNode", "'What'", "kafka.TbKafkaNode",
                    "'Stream'", "the chain 77", "'Else'"):  # fmt: skip
        assert missing in told
    assert len(refused.value.mistakes) == 4
    assert bundles.all() == []


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_chain_finds_another_in_its_bundle_in_either_order(
    bundles: Bundles, order: tuple[str, str]
) -> None:
    texts = {"a": A, "b": B}
    made = bundles.upload("default", "cold", {f"{name}.json": texts[name] for name in order})
    assert (made.version, made.facts.root, set(made.facts.chains)) == (1, "A", {"A", "B"})


def test_a_chain_finds_another_in_another_bundle_and_takes_it_along(bundles: Bundles) -> None:
    """Before B is there, A is refused with its name, and what is kept and runs stays as it is."""
    bundles.upload("default", "a", {"a.json": exported([SAVE], name="A").decode()})
    bundles.assign("default", "a", ["barn"])
    before = bundles.all("default"), bundles.assignments(), bundles.bundle("default", "a")
    with pytest.raises(RulesRefused, match=r"0b, which is not here.* called 'Go on'"):
        bundles.upload("default", "a", {"a.json": A})
    bundles.upload("acme", "b", {"b.json": B})  # another tenant's
    with pytest.raises(RulesRefused, match="0b"):
        bundles.upload("default", "a", {"a.json": A})
    assert before == (
        bundles.all("default"), bundles.assignments(), bundles.bundle("default", "a")
    )  # fmt: skip
    bundles.upload("default", "b", {"b.json": B})
    made = bundles.upload("default", "a", {"a.json": A})
    assert made.facts.taken == {"b@1/b.json": "b 1"}
    assert (made.facts.root, set(made.facts.chains)) == ("A", {"A", "B"})
    kept = bundles.bundle("default", "a")
    assert kept.files == {"a.json": A, "b@1/b.json": B}
    # A newer B changes nothing that is kept; A comes with it when it is uploaded next.
    newer = exported([SAVE, SAVE], name="B", is_root=False, id={"id": "0b"}).decode()
    bundles.upload("default", "b", {"b.json": newer})
    assert bundles.bundle("default", "a") == kept
    assert bundles.upload("default", "a", {"a.json": A}).facts.taken == {"b@2/b.json": "b 2"}


def test_versions_are_kept_and_equal_ones_are_one(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles_module, "VERSIONS_KEPT", 2)
    for version in range(1, 6):
        files = {"b.json": exported([SAVE] * version, name="B").decode()}
        for _ in range(2):
            assert bundles.upload("default", "cold", files).version == version
        if version == 1:
            bundles.assign("default", "cold", ["barn"])
    assert [(one.version, one.edges) for one in bundles.all("default")] == [
        (5, ()), (4, ()), (1, ("barn",)),
    ]  # fmt: skip
    digests = {one.digest for one in bundles.all()}
    assert len(digests) == 3
    assert bundles.bundle("default", "cold", 4).digest() in digests
    with pytest.raises(BundleUnknown, match="'cold' of version 2"):
        bundles.one("default", "cold", 2)


def test_edges_are_assigned_all_or_none_and_by_their_own_tenant(
    bundles: Bundles, registry: Registry
) -> None:
    bundles.upload("default", "cold", {"b.json": B})
    with pytest.raises(EdgeUnknown):
        bundles.assign("default", "cold", ["barn", "mill"])  # acme's
    with pytest.raises(BundleUnknown):
        bundles.assign("acme", "cold", ["mill"])
    assert bundles.assignments() == {}
    bundles.assign("default", "cold", ["barn", "shed"])
    bundles.upload("default", "cold", {"b.json": A, "c.json": B})
    assert bundles.assignments()["barn"].version == 1  # an upload changes no edge
    bundles.assign("default", "cold", ["barn"])
    found = bundles.assignments()
    assert (found["barn"].version, found["shed"].version) == (2, 1)
    with pytest.raises(RulesRefused, match="is to run at barn, shed"):
        bundles.remove("default", "cold")
    assert bundles.unassign("default", ["shed"]) == ["shed"]
    with pytest.raises(EdgeUnknown):
        bundles.unassign("acme", ["barn"])
    registry.edges.forget("barn")
    assert bundles.assignments() == {}
    assert bundles.remove("default", "cold") == 2


def test_what_is_too_much_is_refused(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    long = json.loads(B)
    long["about"] = "x" * (BYTES_MAX // 3)
    big = {f"{n}.json": json.dumps(long).replace('"B"', f'"B{n}"') for n in range(4)}
    for files, told in (({}, "are 0"), (big, "have"), ({"a/b.json": B}, "'a/b.json'"),
                        ({"b.json": "[1]"}, "no export")):  # fmt: skip
        with pytest.raises(RulesRefused, match=told):
            bundles.upload("default", "cold", files)
    monkeypatch.setattr(bundles_module, "BUNDLES_MAX", 1)
    bundles.upload("default", "cold", {"b.json": B})
    with pytest.raises(RulesRefused, match="at most 1"):
        bundles.upload("default", "warm", {"b.json": B})


def test_scripts_are_compiled_where_that_can_be_and_doubted_elsewhere(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(script: str) -> dict[str, str]:
        node: Node = ("filter.TbJsFilterNode", "Many", {"jsScript": script})
        return {"s.json": exported([node], name="S").decode()}

    if is_installed():
        assert bundles.upload("default", "s", files("var a = 1; return a > 0;")).facts.doubts == ()
        with pytest.raises(RulesRefused, match="cannot be compiled"):
            bundles.upload("default", "s", files("var a = ; return a;"))
    monkeypatch.setattr("edgesync.rules.files.is_installed", lambda: False)
    (doubt,) = bundles.upload("default", "t", files("var a = 2; return a;")).facts.doubts
    assert "not compiled here" in doubt
    assert "edgesync[scripts]" in doubt


def test_bundles_are_in_a_dump_of_the_registry(
    bundles: Bundles, registry: Registry, tmp_path: Path
) -> None:
    bundles.upload("default", "cold", {"b.json": B})
    bundles.assign("default", "cold", ["barn"])
    write_dump(registry.owned, tmp_path / "dump")
    (tmp_path / "other").mkdir()
    with closing(open_registry(tmp_path / "other")) as other:
        load_dump(other.owned, tmp_path / "dump")
        again = Bundles(other.owned)
        assert again.all() == bundles.all()
        assert again.assignments() == bundles.assignments()
        assert again.bundle("default", "cold") == bundles.bundle("default", "cold")


def test_a_bundle_packs_and_unpacks_within_bounds() -> None:
    made = Bundle(name="cold", version=3, root="B", files={"b.json": B, "ü.json": "\U0001f600"})
    assert unpack(made.pack()) == made
    reordered = Bundle(
        name="cold", version=3, root="B", files={"ü.json": "\U0001f600", "b.json": B}
    )
    assert reordered.digest() == made.digest()
    bomb = Bundle(name="x", version=1, files={"x": "x" * (7 * BYTES_MAX)}).pack()
    assert len(bomb) < 50_000
    for raw in (b"", b"x", made.pack()[:-3], bomb):
        with pytest.raises(RecordError):
            unpack(raw)


def test_the_tables_are_as_the_migration_leaves_them(registry: Registry) -> None:
    with registry.owned.read() as connection:
        for table in (tables.rule_bundle, tables.rule_assignment, tables.rule_delivery):
            found = {one["name"] for one in sa.inspect(connection).get_columns(table.name)}
            assert found == {column.name for column in table.columns}
