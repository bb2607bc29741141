"""What `[tunnel] allow` lets the hub connect to, and what it does not."""

import pytest

from edgesync.errors import ConfigError
from edgesync.settings import from_mapping
from edgesync.tunnel.allow import read_target

pytestmark = pytest.mark.feature("S33")


@pytest.mark.parametrize(
    ("entry", "has", "has_not"),
    [
        ("127.0.0.1:22", [("127.0.0.1", 22), ("::ffff:127.0.0.1", 22)],
         [("127.0.0.1", 23), ("127.0.0.2", 22), ("localhost", 22), ("127.1", 22), ("", 22)]),
        ("192.168.1.0/24:502", [("192.168.1.255", 502)],
         [("192.168.2.1", 502), ("192.168.1.1", 503), ("192.168.1.1.example", 502)]),
        ("10.0.0.7:*", [("10.0.0.7", 1), ("10.0.0.7", 65535)], [("10.0.0.8", 1)]),
        ("127.0.0.1:*", [], [("::ffff:127.0.0.1%\u00e9", 22), ("::ffff:127.0.0.1%lo", 22)]),
        ("[fd00::/8]:80", [("fd12::1", 80)],
         [("fe80::1", 80), ("10.0.0.1", 80), ("fd12::1%eth0", 80)]),
        ("[fe80::/10]:80", [("fe80::1", 80), ("fe80::1%eth0", 80)],
         [("fe80::1%\u00e9", 80), ("fe80::1%a b", 80), ("fe80::1%" + 16 * "x", 80)]),
        ("[::1]:80", [("::1", 80), ("0:0::1", 80)], [("127.0.0.1", 80)]),
        ("PLC.local:502", [("plc.local", 502), ("Plc.Local", 502)],
         [("plc.local.", 502), ("plc", 502), ("10.0.0.1", 502)]),
    ],
)  # fmt: skip
def test_an_entry_allows_what_it_says_and_nothing_else(
    entry: str, has: list[tuple[str, int]], has_not: list[tuple[str, int]]
) -> None:
    target = read_target(entry)
    assert [one for one in has if not target.has(*one)] == []
    assert [one for one in has_not if target.has(*one)] == []


@pytest.mark.parametrize(
    "entry",
    [
        "", "22", "host", "host:", ":22", "host:0", "host:65536", "host:-1", "host:²", "a b:22",
        "192.168.1.7/24:502", "1.2.3:22", "1.2.3.4.5:22", "[fd00::1:22", "fd00::zz:22", "-x:22",
    ],
)  # fmt: skip
def test_an_entry_that_says_nothing_is_told_with_what_would(entry: str) -> None:
    with pytest.raises(ConfigError) as told:
        from_mapping({"tunnel": {"allow": [entry]}})
    assert told.value.field.startswith("tunnel")
    assert "192.168.1.0/24:502" in str(told.value)
