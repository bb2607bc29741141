"""Files that operators write: edge.toml and hub.toml."""

import random

import edgesync.settings
import hubd.settings
from edgesync import toml
from edgesync.errors import ConfigError
from tests.fuzz.fuzz import Target

EDGE = [
    b'[edge]\nname = "barn-7"\n[hub]\nendpoint = "tcp://hub.example:7400"\n'
    b'server_key = "0123456789012345678901234567890123456789"\n',
    b'[store]\nlimit = "2 GiB"\nretain = "64mb"\n[sync]\nbatch_size = 500\nheartbeat = "5s"\n'
    b'reconnect_jitter = 0.2\nbatch_timeout = "5ms"\n[http]\nport = 0\nhost = "::1"\n',
    b'[[modbus]]\nname = "m"\nhost = "10.0.0.5"\nport = 502\nunit_id = 3\nprofile = "x"\n'
    b'poll_groups.fast.every = "1s"\n[[modbus]]\nname = "n"\nhost = "h"\nword_order = "little"\n'
    b'limits.timeout = "500ms"\n[[modbus.points]]\nname = "P"\naddress = 30001\ntype = "float32"\n',
    b'[logging]\nlevel = "debug"\njson = false\n# a remark\n[edge]\ndata_dir = "/var/lib/x"\n',
    b'[server]\nport = 6379\n[edge]\nenabled = true\nmode = "edge"\nhub_url = "redis://h:6379"\n'
    b'sync_interval = "30s"\noffline_queue_size = 10000\nconflict_resolution = "lww"\n'
    b'[edge.resources]\nmemory_limit = "128mb"\nstorage_limit = "1gb"\ncpu_budget = "low"\n',
]
HUB = [
    b'[hub]\nlisten = ["tcp://0.0.0.0:7400", "tcp://[::1]:7400"]\npublic = "tcp://hub:7400"\n',
    b'[link]\nheartbeat = "5s"\nwindow_batches = 16\ntakeovers_max = 3\nholdoff = "10s"\n'
    b'[log]\nlimit = "64GiB"\nmanaged_backups = true\n[enrol]\nvalid = "15m"\n',
    b'[api]\nhost = "0.0.0.0"\nport = 8080\n[logging]\nlevel = "info"\njson = true\n',
    b'[server]\nport = 6379\nhost = "::1"\n[edge]\nmode = "hub"\nenabled = true\n'
    b'[edge.resources]\nstorage_limit = "1gb"\n',
]
# Words that TOML and the settings give a meaning; plain mutations rarely make one.
WORDS = [
    b"[", b"[[", b"]]", b'"""', b"'''", b"{", b"}", b"= 1\n", b"\n[sync]\n", b"inf", b"nan", b"-1",
    b"1e400", b"9" * 30, b'"5 parsecs"', b'"-5s"', b"true", b"[]", b"{}", b"1979-05-27T07:32:00Z",
    b"07:32:00", b"\\u0000", b"\\uD800", b"a.b.c = 1\n", b"[[edge]]\n", b"sync = 1\n",
    b"link = []\n", b"x = " + b"[" * 5000, b"9" * 5000, b"edge = 1\n", b"[" * 40,
]  # fmt: skip
VARIABLES = {"EDGESYNC_SYNC__BATCH_SIZE": "7", "HUBD_LINK__HOLDOFF": "5s"}


def with_words(data: bytes, rng: random.Random) -> bytes:
    """Put one or two words at places that are likely to mean something."""
    if rng.randrange(2):
        data = rng.choice(EDGE + HUB)  # sound but for the words: the deeper checks are reached
    for _ in range(rng.choice((1, 1, 2))):
        places = [0, *(n + 1 for n, byte in enumerate(data) if byte in b"\n= ")]
        at = rng.choice(places)
        data = data[:at] + rng.choice(WORDS) + data[at:]
    return data


def read_edge(data: bytes) -> None:
    edgesync.settings.from_table(toml.parse(data, file="-"), file="-", environment=VARIABLES)


def read_hub(data: bytes) -> None:
    hubd.settings.from_table(toml.parse(data, file="-"), file="-", environment=VARIABLES)


TARGETS = [
    Target("edge settings", EDGE, read_edge, (ConfigError,), with_words),
    Target("hub settings", HUB, read_hub, (ConfigError,), with_words),
]
