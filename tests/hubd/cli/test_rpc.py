"""`hubd rpc` and `hubd downlink`, beside a hub and an edge that run."""

from pathlib import Path

import pytest

from tests.terminal import open_terminal

pytestmark = [pytest.mark.feature("S24"), pytest.mark.slow]


def test_a_call_is_made_followed_and_given_up(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal:
        hub = terminal.start_hub()
        terminal.enrol()
        assert terminal.out("hubd", "rpc", "list") == "no calls of devices\n"
        listing = ("rpc", "list", "--edge", "barn-7")  # of an edge that it hears of within a second
        terminal.until(lambda: "with edge barn-7" in terminal.run("hubd", *listing).stdout)
        assert terminal.json("hubd", "rpc", "list", "--json") == []
        # The edge is not there: the call waits at the hub, and what waits can be given up.
        sent = terminal.json("hubd", "rpc", "send", "barn-7", "pump", "go", '{"a":1}', "--json")
        assert (sent["state"], sent["params"]) == ("QUEUED", {"a": 1})
        again = ("rpc", "send", "barn-7", "pump", "go", "--id", "mine", "--json")
        assert terminal.json("hubd", *again)["id"] == terminal.json("hubd", *again)["id"] == "mine"
        assert "2 records of" in terminal.out("hubd", "downlink", "barn-7")
        assert terminal.json("hubd", "downlink", "barn-7", "--clear", "--json")["records"] == 0
        gone = terminal.json("hubd", "rpc", "show", sent["id"], "--json")
        assert (gone["state"], "given up" in gone["reason"]) == ("EXPIRED", True)
        edge = terminal.start_edge()
        short = ("rpc", "send", "barn-7", "pump", "go", "--ttl", "2", "--wait", "20", "--json")
        late = terminal.json("hubd", *short)
        assert late["state"] == "EXPIRED"
        assert late["edge_ns"] is not None
        listed = terminal.json("hubd", "rpc", "list", "--edge", "barn-7", "--json")
        assert [one["id"] for one in listed] == [late["id"], "mine", sent["id"]]
        assert "EXPIRED; its time passed" in terminal.out("hubd", "rpc", "show", late["id"])
        # Mistakes.
        for arguments, told in (
            (("send", "barn-7", "pump", "go", "fast"), "no JSON"),
            (("send", "nowhere", "pump", "go"), "no edge 'nowhere'"),
            (("show", "nothing"), "no call 'nothing'"),
            (("send", "barn-7", "pump", "go", "--ttl", "0"), "0"),
        ):
            refused = terminal.run("hubd", "rpc", *arguments)
            assert refused.returncode != 0
            assert told in refused.stderr, arguments
        assert terminal.stop(edge) == terminal.stop(hub) == 0
        assert "start one with `hubd run`" in terminal.run("hubd", "rpc", "list").stderr
