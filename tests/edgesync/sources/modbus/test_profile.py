"""Profiles and settings: what is bundled, what is refused, and in which words."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgesync.errors import ConfigError
from edgesync.sources.modbus.doubts import doubts
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
        ('addr = 1', "addr: is not a known key in 'A'; did you mean `address`"),
        ('address = 1\ntype = "int17"', "'int17' is not allowed in 'A'; did you mean `int1"),
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
    with pytest.raises(ConfigError, match=problem):
        parse_profile(text.encode(), "p.toml")


def refused(text: str, file: str = "p.toml") -> str:
    with pytest.raises(ConfigError) as caught:
        parse_profile(text.encode(), file)
    return str(caught.value)


def test_every_mistake_of_a_profile_is_told_at_once() -> None:
    says = refused(
        'profile = "p"\nunit = 3\n[poll_groups.hourly]\nevry = "1h"\n'
        '[[points]]\nname = "Volts"\naddress = 1\ntype = "unit16"\n'
        '[[points]]\nname = "Amps"\nadress = 2\n'
        '[[points]]\nname = "Watts"\naddress = "0x10"\ninvalid = "0xFFFF"\n'
        '[[points]]\nname = "two words"\naddress = 4\n'
    )
    for one in (
        "p.toml: unit: is not a known key; did you mean `unit_id`",
        "poll_groups.hourly.evry: is not a known key; did you mean `every`",
        "points[0].type: 'unit16' is not allowed in 'Volts'; did you mean `uint16`",
        "points[1].adress: is not a known key in 'Amps'; did you mean `address`",
        "points[2].address: Expected `int`, got `str` in 'Watts'; write 0x10 without quotes",
        "'0xFFFF' is not allowed in 'Watts'",
        "or a list such as [0xFFFF]",
        "'two words' has a blank",
    ):
        assert one in says


def test_marks_and_single_tables_are_named() -> None:
    assert "begins with a byte order mark (UTF-8)" in refused('\ufeffprofile = "p"\n')
    assert "write [[points]]" in refused('profile = "p"\n[points]\nname = "A"\naddress = 1\n')
    assert "has a tab" in refused('profile = "p"\n[[points]]\nname = "a\\tb"\naddress = 1\n')


def test_mistakes_of_all_points_and_devices_are_told_at_once(tmp_path: Path) -> None:
    points = ({**A, "scale": 0}, {"name": "B", "address": 70000 - 5000, "group": "quick"})
    devices = [
        device(name="m", points=points),
        device(name="n", host="tcp://10.0.0.5", profile="tesla"),
        device(name="m", points=(A,)),
    ]
    with pytest.raises(ConfigError) as caught:
        modbus_sources(devices, folder=tmp_path)
    for one in (
        "points.A.scale", "points.B.group", "two devices have this name",
        "device 'n': host: 'tcp://10.0.0.5' has a scheme; write host = \"10.0.0.5\"",
        "device 'n': profile: ", "tesla: is not a bundled profile",
    ):  # fmt: skip
        assert one in str(caught.value)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("127.0.0.1:502", 'write host = "127.0.0.1" and port = 502'),
        ("tcp://meter.local", 'write host = "meter.local"'),
        (" 127.0.0.1", 'has a blank; write host = "127.0.0.1"'),
        ("[::1]", 'write host = "::1"'),
        ("[::1]:502", "and port = 502"),
        ("/dev/ttyUSB0", "serial"),
        ("COM3", "serial"),
        ("a/b", "is no host"),
    ],
)
def test_a_host_is_a_host(host: str, says: str) -> None:
    with pytest.raises(ConfigError, match="device 'meter0': host:") as caught:
        modbus_source(device(host=host, points=(A,)))
    assert says in str(caught.value)


def test_two_names_of_one_host_share_a_connection() -> None:
    names = ["localhost", "127.0.0.1", "LOCALHOST", "::1", "0:0:0:0:0:0:0:1", "meter", "Meter."]
    devices = [device(name=f"d{i}", host=host, points=(A,)) for i, host in enumerate(names)]
    found = [source.name for source in modbus_sources(devices)]
    assert found == ["tcp://localhost:502", "tcp://[::1]:502", "tcp://meter:502"]


def test_what_will_hardly_work_is_doubted() -> None:
    modicon = layout({"name": "A", "address": 40011}, address_base=1)
    [doubt] = doubts([modicon])
    assert "40011" in doubt
    assert "register 10 counted from 0 (write 11 here)" in doubt
    slow = layout({**A, "group": "fast"}, timeout="10s", retries=5)
    [doubt] = doubts([slow])
    assert "10 s x 6" in doubt
    far = tuple({"name": f"P{i}", "address": 200 * i, "group": "fast"} for i in range(40))
    busy = layout(*far, min_gap="50ms", timeout="50ms", poll_groups={"fast": {"every": "100ms"}})
    [doubt] = doubts([busy])
    assert "need 21 s of each second" in doubt
    assert list(doubts([layout({**A, "group": "fast"})])) == []
    for name in bundled_profiles():
        assert list(doubts([load_layout(device(profile=name))])) == []


def test_several_numbers_may_have_one_name() -> None:
    [point] = layout({**A, "type": "enum", "enum": {"1": "off", "2": "off", "3": "on"}}).points
    assert point.symbols == ((1, "off"), (2, "off"), (3, "on"))


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


@pytest.mark.setting("modbus.port", "modbus.enabled")
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
