"""The short form: a guide's file works as it stands; mistakes are told where they were made."""

import contextlib
import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgesync.settings
import hubd.settings
from edgesync.errors import ConfigError
from edgesync.short_form import EDGE, SWITCHES, for_edge, mode_of
from edgesync.store.settings import BulkSection, CriticalSection, NormalSection

pytestmark = pytest.mark.feature("L12")

GUIDE = """\
# ferrite-edge.toml
[server]
port = 6379

[edge]
enabled = true
mode = "edge"                    # "edge" or "hub"
hub_url = "redis://hub:6379"    # Cloud hub address
sync_interval = "30s"           # Sync frequency
offline_queue_size = 10000      # Max queued operations
conflict_resolution = "lww"     # last-writer-wins

[edge.resources]
memory_limit = "128mb"          # Constrained for edge
storage_limit = "1gb"
cpu_budget = "low"              # low/medium/high
"""


def edge(text: str, **environment: str) -> edgesync.settings.Settings:
    table = tomllib.loads(text)
    return edgesync.settings.from_table(table, file="edge.toml", environment=environment)


def hub(text: str) -> hubd.settings.Settings:
    return hubd.settings.from_table(tomllib.loads(text), file="hub.toml", environment={})


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        edge(text)
    return caught.value


def test_the_guides_file_is_read_as_it_stands() -> None:
    settings = edge(GUIDE)
    assert settings.cells.port == 6379
    assert settings.hub.unjoined == "tcp://hub:6379"
    assert settings.hub.endpoint == ""
    assert float(settings.sync.interval) == 30
    assert settings.sync.lanes.critical == CriticalSection()
    assert settings.sync.lanes.normal == NormalSection(overflow="drop_oldest", capacity=10_000)
    assert settings.sync.lanes.bulk == BulkSection(overflow="drop_oldest", capacity=10_000)
    assert settings.cells.strategy == "last_write_wins"


def test_both_forms_may_stand_in_one_file() -> None:
    joined = '[hub]\nendpoint = "tcp://hub.example:7400"\nserver_key = "' + "k" * 40 + '"\n'
    settings = edge(f'{GUIDE}\n{joined}\n[sync.lanes.bulk]\noverflow = "downsample"\n')
    assert settings.hub.endpoint == "tcp://hub.example:7400"
    assert settings.hub.unjoined == ""
    assert settings.sync.lanes.bulk == BulkSection(overflow="downsample", capacity=10_000)


def test_a_program_may_use_it_too() -> None:
    table = {
        "edge": {"node_id": "edge-001", "sync_policy": "Opportunistic", "max_memory": 50 << 20}
    }
    assert edgesync.settings.from_mapping(table).edge.name == "edge-001"
    assert table["edge"]["node_id"] == "edge-001"


def test_an_edge_that_is_not_enabled_is_told_of_no_hub() -> None:
    joined = '[hub]\nendpoint = "tcp://hub.example:7400"\nserver_key = "' + "k" * 40 + '"\n'
    settings = edge(GUIDE.replace("enabled = true", "enabled = false") + joined)
    assert (settings.hub.endpoint, settings.hub.unjoined) == ("", "")


@pytest.mark.parametrize(
    ("written", "strategy"),
    [
        ("lww", "last_write_wins"), ("crdt", "crdt_merge"), ("cloud_wins", "cloud_wins"),
        ("edge_wins", "edge_wins"), ("LastWriteWins", "last_write_wins"),
        ("CrdtMerge", "crdt_merge"), ("CloudWins", "cloud_wins"), ("EdgeWins", "edge_wins"),
    ],
)  # fmt: skip
def test_conflict_resolutions_have_two_spellings(written: str, strategy: str) -> None:
    assert edge(f'[edge]\nconflict_resolution = "{written}"').cells.strategy == strategy


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://hub:6379", "tcp://hub:6379"), ("redis://hub", "tcp://hub:7400"),
        ("tcp://10.0.0.7:7400", "tcp://10.0.0.7:7400"), ("redis://[::1]:9/", "tcp://[::1]:9"),
    ],
)  # fmt: skip
def test_a_hubs_url_names_the_host_and_the_port_of_its_link(url: str, endpoint: str) -> None:
    assert edge(f'[edge]\nhub_url = "{url}"').hub.url == endpoint


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("[server]\nport = 99999", "server.port", "<= 65535"),
        ("[server]\nprot = 1", "server.prot", "did you mean `port`?"),
        ("server = 1", "server", "is not a table"),
        ("edge = 1", "edge", "is not a table"),
        ("[edge]\nresources = 1", "edge.resources", "is not a known key"),
        ('[edge]\nhub_ulr = "redis://hub"', "edge.hub_ulr", "did you mean `hub_url`?"),
        ('[edge.resources]\nmemory = "1gb"', "edge.resources.memory", "memory_limit"),
        ('[edge.resources]\nmemory_limit = "1 parsec"', "edge.resources.memory_limit", "unit of"),
        ('[edge.resources]\ncpu_budget = "lots"', "edge.resources.cpu_budget", "medium"),
        ('[edge]\nhub_url = "http://hub"', "edge.hub_url", "redis://host:port"),
        ('[edge]\nhub_url = "redis://:secret@hub"', "edge.hub_url", "edgesync init"),
        ('[edge]\nhub_url = "redis://hub:port"', "edge.hub_url", "Port could not be cast"),
        ('[edge]\nhub_url = "redis://hub/0"', "edge.hub_url", "more than a host and a port"),
        ("[edge]\nhub_url = 7", "edge.hub_url", "redis://host:port"),
        ('[edge]\nsync_interval = "5 parsecs"', "edge.sync_interval", "unit of time"),
        ("[edge]\noffline_queue_size = 0", "edge.offline_queue_size", "1 or more"),
        ("[edge]\noffline_queue_size = 1\nmax_offline_queue = 2", "edge.max_offline_queue",
         "sync.lanes.normal.capacity"),
        ('[edge]\nconflict_resolution = "newest"', "edge.conflict_resolution", "cloud_wins"),
        ('[edge]\nsync_policy = "manual"', "edge.sync_policy", "EDGE.SYNC"),
        ('[edge]\nsync_policy = "never"', "edge.sync_policy", "opportunistic"),
        ('[edge]\nenabled = "yes"', "edge.enabled", "true or false"),
        ('[edge]\nmode = "fog"', "edge.mode", '"edge" or "hub"'),
        ('[edge]\nmode = "hub"', "edge.mode", "hubd --config edge.toml run"),
        ('[edge]\nnode_id = "barn 7"', "edge.node_id", "has a blank"),
        ('[edge]\nnode_id = "a"\nname = "b"', "edge.node_id", "edge.name"),
        ('[server]\nhost = "0.0.0.0"\nport = 1', "server.password", "is empty"),
        ("[server]\nport = 1\n[cells]\nport = 2", "server.port", "cells.port"),
        ("cells = 3\n[server]\nport = 1", "cells", "is not a table"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_under_the_name_it_was_written_with(
    text: str, field: str, words: str
) -> None:
    error = refused(text)
    assert error.field == field
    assert words in str(error)


def test_the_environment_goes_over_the_short_form() -> None:
    assert edge(GUIDE, EDGESYNC_CELLS__PORT="7000").cells.port == 7000


def test_a_hubs_file_says_where_edges_connect() -> None:
    text = '[server]\nport = 6379\n[edge]\nmode = "hub"\nqueue_path = "kept"\n'
    text += '[edge.resources]\nstorage_limit = "2gb"\n'
    assert mode_of(tomllib.loads(text)) == "hub"
    settings = hub(text)
    assert settings.hub.listen == ("tcp://0.0.0.0:6379",)
    assert settings.hub.data_dir == "kept"
    assert settings.log.limit == 2_000_000_000


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[server]\nport = 6379", "edge.mode"),
        ('[edge]\nmode = "hub"\nhub_url = "redis://hub"', "edge.hub_url"),
        ('[edge]\nmode = "hub"\nenabled = false', "edge.enabled"),
        ('[edge]\nmode = "hub"\n[server]\nport = "x"', "server.port"),
        ('[edge]\nmode = "hub"\n[server]\npassword = "x"', "server.password"),
        ('[edge]\nmode = "hub"\nmoode = 1', "edge.moode"),
    ],
)
def test_a_hubs_file_is_checked_like_an_edges(text: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hub(text)
    assert caught.value.field == field


def test_a_file_without_it_is_left_alone() -> None:
    table = tomllib.loads('[edge]\nname = "barn"\n[cells]\nport = 1\n')
    assert for_edge(table, "edge.toml") == {}
    assert table == {"edge": {"name": "barn"}, "cells": {"port": 1}}


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    part = text.partition("## The short form")[2].partition("\n## ")[0]
    for name in (*EDGE, *SWITCHES):
        assert name.rpartition(".")[2] in part, name


WORDS = sorted({part for name in (*EDGE, *SWITCHES) for part in name.split(".")} | {"cells", "hub"})
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.datetimes(),
    st.sampled_from(["30s", "128mb", "lww", "hub", "edge", "redis://hub:6379", "low", "crdt"]),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
KEYS = st.one_of(st.sampled_from(WORDS), st.text(string.ascii_lowercase, min_size=1, max_size=4))
TABLES = st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=4), max_size=6)
SECTIONS = st.sampled_from(["server", "edge", "cells", "hub", "sync"])


@given(st.dictionaries(SECTIONS, VALUES | TABLES, max_size=4))
@pytest.mark.slow
def test_any_table_gives_settings_or_an_error_of_configuration(table: dict[str, Any]) -> None:
    for read in (edgesync.settings.from_table, hubd.settings.from_table):
        own = {name: dict(inner) if isinstance(inner, dict) else inner
               for name, inner in table.items()}  # fmt: skip
        with contextlib.suppress(ConfigError):
            assert read(own, file="any", environment={}) is not None
