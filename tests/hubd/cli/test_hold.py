"""Daemons that share a folder or a database: the second is refused, until the first has died."""

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.terminal import open_terminal

pytestmark = pytest.mark.feature("K6")


def test_the_next_hub_goes_on_where_one_was_killed(tmp_path: Path, database: str) -> None:
    (tmp_path / "other").mkdir()
    url = ("--database", database)
    with open_terminal(tmp_path) as first, open_terminal(tmp_path / "other") as second:
        for each in (first, second):
            listen = f"tcp://127.0.0.1:{each.link_port}"
            each.out("hubd", "init", "--listen", listen, "--port", str(each.http_port))
        hub = first.start("hubd", "run", *url)
        first.until(lambda: first.logged("hubd", "hub ready"))
        first.out("hubd", "enroll", "barn-7", *url)
        holder = f"process {hub.pid} on {socket.gethostname()}, since 20"
        for each in (first, second):
            refused = each.run("hubd", "run", *url)
            assert refused.returncode == 75
            assert holder in refused.stderr
        hub.send_signal(signal.SIGKILL)
        hub.wait()
        again = first.start("hubd", "run", *url)
        first.until(lambda: first.logged("hubd", "hub ready") == 2)
        assert [edge["edge"] for edge in first.json("hubd", "edges", *url)] == ["barn-7"]
        assert first.stop(again) == 0
        rows = json.loads(second.out("hubd", "edges", "--json", *url))
        assert [edge["edge"] for edge in rows] == ["barn-7"]
