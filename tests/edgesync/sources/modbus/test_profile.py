"""Profiles and settings: what is bundled, what is refused, and in which words."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgesync.errors import ConfigError
from edgesync.sources.modbus.layout import Layout, resolve
from edgesync.sources.modbus.profile import (
    bundled_profiles,
    load_layout,
    load_profile,
    parse_profile,
)
from edgesync.sources.modbus.settings import ModbusDeviceSettings
from edgesync.sources.modbus.source import modbus_source, modbus_sources
from edgesync.units import dec_hook


def device(**fields: Any) -> ModbusDeviceSettings:
    raw = {"name": "meter0", "host": "10.0.0.5", **fields}
    return msgspec.convert(raw, ModbusDeviceSettings, dec_hook=dec_hook)


def layout(*points: dict[str, Any], **fields: Any) -> Layout:
    return resolve(device(points=points, **fields), None)


@pytest.mark.parametrize("name", bundled_profiles())
def test_every_bundled_profile_loads(name: str) -> None:
    assert load_profile(name).profile == name
    assert load_layout(device(profile=name)).points


def test_the_simulated_site_has_more_than_fifty_series() -> None:
    names = [name for name in bundled_profiles() if name.startswith("edgesync-sim")]
    layouts = [load_layout(device(profile=name)) for name in names]
    assert sum(len(p.series()) for found in layouts for p in found.points) > 50
    assert sum(p.group == "fast" for found in layouts for p in found.points) > 50


def test_an_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="edgesync-sim-meter"):
        load_profile("tesla")


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_profile_of_ones_own_is_read_by_path(tmp_path: Path, suffix: str) -> None:
    text = {
        "toml": 'profile = "p"\n[[points]]\nname = "A"\naddress = 3\n',
        "json": '{"profile": "p", "points": [{"name": "A", "address": 3}]}',
    }
    (tmp_path / f"my.{suffix}").write_text(text[suffix])
    found = load_layout(device(profile=f"my.{suffix}"), tmp_path)
    assert [(p.name, p.address, p.group) for p in found.points] == [("A", 3, "slow")]


def test_a_missing_file_and_a_broken_one_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_profile("no.toml", tmp_path)
    for name, data in [
        ("a.toml", b"= 1"),
        ("a.json", b"{"),
        ("a.toml", b"\xff"),
        ("a.json", b"[]"),
    ]:
        with pytest.raises(ConfigError, match=rf"^{name}: "):
            parse_profile(data, name)
    with pytest.raises(ConfigError, match="allowed: 4194304"):
        parse_profile(b"#" * (4 << 20) + b"##", "big.toml")


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ('addr = 1', "unknown field `addr`.*"),
        ('address = 1\ntype = "int17"', r"Invalid enum value 'int17' - at `\$"),
        ('address = "x"', "Expected `int`"),
        ('address = -1', ">= 0"),
    ],
)  # fmt: skip
def test_a_typo_is_refused_with_the_path(point: str, problem: str) -> None:
    text = f'profile = "p"\n[[points]]\nname = "A"\n{point}\n'
    with pytest.raises(ConfigError) as caught:
        parse_profile(text.encode(), "p.toml")
    assert caught.value.file == "p.toml"
    assert caught.value.field.startswith("points[0]")
    with pytest.raises(ConfigError, match=problem.partition(" - at")[0]):
        parse_profile(text.encode(), "p.toml")


A: dict[str, Any] = {"name": "A", "address": 1}


@pytest.mark.parametrize(
    ("points", "field", "says"),
    [
        ([A, A], "points.A", "defined twice"),
        ([{**A, "address": 65536}], "points.A.address", "allowed: 0 to 65535"),
        ([{**A, "address": 65535, "type": "int32"}], "points.A.address", "allowed: 0 to 65534"),
        ([{**A, "group": "quick"}], "points.A.group", "known: fast, slow"),
        ([{**A, "table": "coil"}], "points.A.type", 'allowed: "bool"'),
        ([{**A, "bit": 3}], "points.A.bit", 'only for type = "bool"'),
        ([{**A, "length": 2}], "points.A.length", "only for string, bcd, enum, bits"),
        ([{**A, "type": "bcd", "length": 5}], "points.A.length", "allowed: 1 to 4"),
        ([{**A, "type": "string"}], "points.A.length", "needs its length"),
        ([{**A, "dword_order": "big"}], "points.A.dword_order", "64-bit"),
        ([{**A, "enum": {"0": "x"}}], "points.A.enum", 'type = "enum"'),
        ([{**A, "type": "enum", "enum": {"x": "y"}}], "points.A.enum.x", "0 to 65535"),
        ([{**A, "type": "bits", "bits": {"16": "y"}}], "points.A.bits.16", "0 to 15"),
        ([{**A, "type": "bits", "bits": {"1": "y", "2": "y"}}], "points.A.bits.2", "twice"),
        ([{**A, "sf": "B"}], "points.A.sf", "no point is called 'B'; known: A"),
        ([{**A, "sf": "A"}], "points.A.sf", "plain int16"),
        ([{**A, "sf": "A", "scale": 2}], "points.A.sf", "excludes scale"),
        ([{**A, "type": "float32", "sf": "A"}], "points.A.sf", "integer types"),
        ([{**A, "scale": 0}], "points.A.scale", "every value equal"),
        ([{**A, "scale": float("nan")}], "points.A.scale", "finite"),
        ([{**A, "offset": -1e16}], "points.A.offset", "allowed: -1e+15 to 1e+15"),
        ([{**A, "type": "bool", "scale": 2}], "points.A.scale", "no scale"),
        ([{**A, "min": 2, "max": 1}], "points.A.min", "above max"),
        ([{**A, "invalid": ["x"]}], "points.A.invalid", "cannot occur"),
        ([{**A, "invalid": [1.5]}], "points.A.invalid", "no whole number"),
        ([{**A, "invalid": [70000]}], "points.A.invalid", "16 bits"),
        ([{**A, "atomic_with": ["C"]}], "points.A.atomic_with", "known: A"),
        ([{**A, "deadband": "x"}], "points.A.deadband", "a deadband is a number"),
        ([], "points", "name a profile or add points"),
    ],
)  # fmt: skip
def test_each_mistake_names_its_field_and_what_is_allowed(
    points: list[dict[str, Any]], field: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        layout(*points)
    assert caught.value.field == field
    assert says in str(caught.value)
    assert "device 'meter0'" in str(caught.value)


def test_an_atomic_set_must_fit_into_one_request() -> None:
    far = [{**A, "atomic_with": ["B"]}, {"name": "B", "address": 200}]
    with pytest.raises(ConfigError, match="needs 200 registers in one request; allowed: 125"):
        layout(*far)
    with pytest.raises(ConfigError, match="different tables"):
        layout({**A, "atomic_with": ["B"]}, {"name": "B", "address": 2, "table": "input"})
    with pytest.raises(ConfigError, match="different groups"):
        layout({**A, "atomic_with": ["B"]}, {"name": "B", "address": 2, "group": "fast"})


def test_two_points_must_not_make_one_series() -> None:
    flags = {"name": "A", "address": 1, "type": "bits", "bits": {"0": "X"}}
    with pytest.raises(ConfigError, match="both make the series"):
        layout(flags, {"name": "A.X", "address": 9})


def test_the_device_overrides_its_profile() -> None:
    found = load_layout(
        device(
            profile="edgesync-sim-meter",
            unit_id=7,
            max_words=40,
            timeout="250ms",
            poll_groups={
                "fast": {"every": "2s"},
                "hourly": {"every": "1h", "points": ["Firmware"]},
            },
            points=[{"name": "Frequency", "address": 99, "group": "fast"}],
            deadband=0.5,
            max_age="5m",
        )
    )
    points = {point.name: point for point in found.points}
    assert (found.unit_id, found.limits.max_words, found.limits.timeout) == (7, 40, 0.25)
    assert dict(found.periods) == {"fast": 2.0, "slow": 60.0, "hourly": 3600.0}
    assert points["Firmware"].group == "hourly"
    assert points["Frequency"].address == 99
    rule = dict(found.rules)["Alarms.PhaseLoss"]
    assert (rule.absolute, rule.max_age_s) == (0.5, 300.0)


def test_groups_name_points_that_exist_once_and_have_a_period() -> None:
    with pytest.raises(ConfigError, match="no point is called 'B'"):
        layout(A, poll_groups={"fast": {"points": ["B"]}})
    with pytest.raises(ConfigError, match="is in two groups"):
        layout(A, poll_groups={"fast": {"points": ["A"]}, "slow": {"points": ["A"]}})
    with pytest.raises(ConfigError, match='has no period; add every = "10s"'):
        layout(A, poll_groups={"hourly": {"points": ["A"]}})


def test_an_address_base_of_one_shifts_every_address() -> None:
    assert layout(A, address_base=1).points[0].address == 0
    with pytest.raises(ConfigError, match="allowed: 1 to 65536"):
        layout({**A, "address": 0}, address_base=1)


def test_devices_of_one_address_share_a_source_and_names_are_unique() -> None:
    devices = [
        device(name="a", profile="edgesync-sim-meter"),
        device(name="b", profile="edgesync-sim-pv"),
        device(name="c", profile="edgesync-sim-pv", port=503),
        device(name="d", profile="edgesync-sim-pv", enabled=False),
    ]
    sources = modbus_sources(devices)
    assert [[s.name for s in source._units] for source in sources] == [["a", "b"], ["c"]]
    assert modbus_source(devices[0]).name == "tcp://10.0.0.5:502"
    with pytest.raises(ConfigError, match="two devices have this name"):
        modbus_sources([devices[0], devices[0]])


def test_unknown_keys_and_wrong_units_of_a_device_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `time_out`"):
        device(time_out=3)
    with pytest.raises(msgspec.ValidationError, match=r"unit of time.*\$\.timeout"):
        device(timeout="3 parsec")
    with pytest.raises(msgspec.ValidationError, match=r"<= 255.*\$\.unit_id"):
        device(unit_id=256)


@pytest.mark.parametrize("name", bundled_profiles())
def test_the_documentation_lists_every_register_of_the_bundled_profiles(name: str) -> None:
    text = (Path(__file__).parents[4] / "docs" / "modbus.md").read_text()
    section = text.partition(f"### {name} ")[2].partition("\n### ")[0]
    rows = {tuple(cell.strip() for cell in row.split("|")[1:5]) for row in section.splitlines()}
    for point in load_profile(name).points:
        kind = point.type + (f"[{point.length}]" if point.length else "")
        assert (point.table, str(point.address), point.name, kind) in rows
