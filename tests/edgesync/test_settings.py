"""Settings refuse what they do not know, and say what would be right."""

import re
from pathlib import Path

import pytest

from edgesync import EdgeNode, toml
from edgesync.errors import ConfigError
from edgesync.settings import ALIASES, Settings, link_proxy, read_settings
from edgesync_transport.keys import new_key_pair, write_keys
from hubd.settings import read_settings as read_hub_settings

pytestmark = pytest.mark.feature("L12", "S16")

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


def read(tmp_path: Path, text: str, **environment: str) -> Settings:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return read_settings(path, environment)


def refused(tmp_path: Path, text: str, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, **environment)
    return caught.value


def test_an_empty_file_is_a_working_edge_without_a_hub(tmp_path: Path) -> None:
    settings = read(tmp_path, "")
    assert settings.hub.endpoint == ""
    assert settings.http.host == "127.0.0.1"


def test_durations_and_sizes_are_written_as_people_do(tmp_path: Path) -> None:
    settings = read(tmp_path, '[sync]\nheartbeat = "30s"\n[store]\nlimit = "128mb"')
    assert float(settings.sync.heartbeat) == 30
    assert settings.store.limit == 128_000_000


def test_the_proxy_of_another_system_is_understood(tmp_path: Path) -> None:
    said = {"HOST": "proxy.example", "PORT": "3128", "USERNAME": "ana", "PASSWORD": "a/b@c"}
    variables = {f"CLOUD_RPC_PROXY_{name}": value for name, value in said.items()}
    assert read(tmp_path, "", **variables).hub.proxy == ""
    variables["CLOUD_RPC_PROXY_ENABLED"] = "true"
    found = link_proxy(read(tmp_path, "", **variables))
    assert found is not None
    assert (str(found), found.user, found.password) == (
        "http://proxy.example:3128", "ana", "a/b@c",
    )  # fmt: skip
    own = read(tmp_path, "", **variables, EDGESYNC_HUB__PROXY="socks5://other:1080")
    assert str(link_proxy(own)) == "socks5://other:1080"
    del variables["CLOUD_RPC_PROXY_PORT"]
    with pytest.raises(ConfigError, match=r"hub\.proxy") as refused:
        read(tmp_path, "", **variables)
    assert "a/b@c" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ('[sync]\nheart_beat = "5s"', "sync.heart_beat", "did you mean `heartbeat`?"),
        ("[synk]", "synk", "did you mean `sync`?"),
        ('[sync]\nheartbeat = "5 parsecs"', "sync.heartbeat", "unit of time"),
        ('[store]\nlimit = "12 bananas"', "store.limit", "unit of size"),
        ("[sync]\nbatch_size = 0", "sync.batch_size", ">= 1"),
        ('[sync]\nbatch_size = "many"', "sync.batch_size", "int"),
        ('[hub]\nendpoint = "http://x"', "hub.endpoint", "tcp"),
        ('[hub]\nendpoint = "tcp://hub:7400"', "hub.server_key", "edgesync init"),
        ('[[modbus]]\nname = "m"', "modbus[0].host", "is missing"),
        ('[cells]\nport = 6379\nhost = "0.0.0.0"', "cells.password", "is empty"),
        ('[cells]\nstrategy = "newest"', "cells.strategy", "newest"),
        ('[[modbus]]\nname = "m"\nhost = "h"\nprot = 5', "modbus[0].prot", "did you mean `port`?"),
        ("[edge\n", "(file)", "is not TOML"),
        ("x = " + "[" * 5000, "(file)", "is not TOML"),
        ("x = " + "9" * 5000, "(file)", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(
    tmp_path: Path, text: str, field: str, words: str
) -> None:
    error = refused(tmp_path, text)
    assert error.field == field
    assert words in str(error)
    assert "edge.toml" in str(error)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="init"):
        read_settings(tmp_path / "none.toml", {})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes(b"\xfd\xff" * 100)
    with pytest.raises(ConfigError, match="is not TOML"):
        read_settings(path, {})


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    text = '[sync]\nheartbeat = "5s"'
    changed = {"EDGESYNC_SYNC__HEARTBEAT": "9s", "EDGESYNC_HTTP__PORT": "0"}
    settings = read(tmp_path, text, **changed)
    assert float(settings.sync.heartbeat) == 9
    assert settings.http.port == 0
    assert refused(tmp_path, text, EDGESYNC_SYNC__HEARTBEAT="soon").file == "environment"


def test_the_environment_cannot_hide_that_a_section_is_no_table(tmp_path: Path) -> None:
    assert refused(tmp_path, "sync = 1", EDGESYNC_SYNC__HEARTBEAT="9s").field == "sync"


def test_names_known_elsewhere_are_understood_with_their_units(tmp_path: Path) -> None:
    aliases = {"CLOUD_RECONNECT_TIMEOUT": "4500", "CLOUD_RPC_KEEP_ALIVE_TIME_SEC": "12"}
    settings = read(tmp_path, "", **aliases)
    assert settings.sync.reconnect_base == 4.5
    assert float(settings.sync.heartbeat) == 12
    over = read(tmp_path, "", EDGESYNC_SYNC__HEARTBEAT="3s", **aliases)
    assert float(over.sync.heartbeat) == 3


@pytest.mark.parametrize(("value", "seconds"), [("5", 5), ("999", 999), ("5000", 5), ("2.5", 2.5)])
def test_a_timeout_known_elsewhere_in_two_units_is_understood_in_both(
    tmp_path: Path, value: str, seconds: float
) -> None:
    assert float(read(tmp_path, "", CLOUD_RPC_TIMEOUT=value).sync.ack_timeout) == seconds


async def test_variables_of_other_systems_reach_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an operator sets them: in the environment, beside a file that says something else."""
    monkeypatch.setenv("CLOUD_RECONNECT_TIMEOUT", "4500")
    monkeypatch.setenv("CLOUD_RPC_KEEP_ALIVE_TIME_SEC", "12")
    monkeypatch.setenv("CLOUD_RPC_TIMEOUT", "7")
    write_keys(tmp_path / "edge.keys", new_key_pair())
    (tmp_path / "edge.toml").write_text(
        f'[hub]\nendpoint = "tcp://127.0.0.1:1"\nserver_key = "{new_key_pair().public}"\n'
        '[sync]\nheartbeat = "1s"\nreconnect_base = "1s"\nack_timeout = "1s"\n'
    )
    async with EdgeNode(tmp_path / "edge.toml") as node:
        assert node.part("link").driver is not None
        sender = node.part("link").driver.sender.settings
        assert (sender.heartbeat_s, sender.ack_timeout_s) == (12, 7)
        assert node.part("link").driver._backoff._settings.base_s == 4.5
    documented = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    words = {"s": "seconds", "ms": "milliseconds", "s or ms": "seconds up to 999, milliseconds"}
    for alias, (_, key, unit) in ALIASES.items():
        said = re.search(rf"`{alias}`\s+\(([^)]+)\)", documented)
        assert said is not None
        assert f"`{key}`" in said[1]
        assert words[unit] in said[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[hub]\nendpoint = "http://hub:7400"', "hub.endpoint: has the wrong form; write tcp://"),
        ('[edge]\nname = "-a"', "edge.name: has the wrong form; write letters, digits"),
        ('[logging]\nlevel = "warn"', "did you mean `warning`?"),
        ("[edge.resource]\nmemory_limit = 1", "did you mean `resources`?"),
    ],
)
def test_a_mistake_says_what_to_write(tmp_path: Path, text: str, said: str) -> None:
    assert said in str(refused(tmp_path, text))


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("EDGESYNC_SYNC__HEARTBAET", "is not a known key; did you mean `heartbeat`?"),
        ("EDGESYNC_SYCN__HEARTBEAT", "is not a known key; did you mean `sync`?"),
        ("EDGESYNC_SYNC__HEARTBEAT", "'10q' has no known unit of time"),
    ],
)
def test_a_mistake_in_the_environment_is_looked_for_there(
    tmp_path: Path, variable: str, said: str
) -> None:
    found = refused(tmp_path, "[sync]\ninterval = 1", **{variable: "10q"})
    assert str(found).startswith(f"environment: {variable}: {said}")


def test_a_variable_with_one_underscore_is_doubtful() -> None:
    variables = {"EDGESYNC_SYNC_HEARTBEAT": "9s", "EDGESYNC_CONFIG": "edge.toml", "PATH": ""}
    [found] = toml.unread(variables, "EDGESYNC", Settings)
    assert found.endswith("write EDGESYNC_SYNC__HEARTBEAT")


def test_the_hubs_settings_follow_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text('[link]\nheartbeats = "5s"')
    with pytest.raises(ConfigError, match="did you mean `heartbeat`"):
        read_hub_settings(path, {})
    path.write_text('[api]\nhost = "0.0.0.0"')
    with pytest.raises(ConfigError, match="token_sha256"):
        read_hub_settings(path, {})
    for text, said in (
        ('listen = "tcp://0.0.0.0:7400"', 'write a list: ["tcp://0.0.0.0:7400"]'),
        (
            'listen = ["0.0.0.0:7400"]',
            "hub.listen[0]: has the wrong form; write tcp://address:port",
        ),
        ('public = "hub.example.org:7400"', "such as tcp://hub.example.org:7400"),
    ):
        path.write_text(f"[hub]\n{text}\n")
        with pytest.raises(ConfigError, match=re.escape(said)):
            read_hub_settings(path, {})
    path.write_text("")
    settings = read_hub_settings(path, {"HUBD_API__PORT": "9000"})
    assert settings.api.port == 9000
