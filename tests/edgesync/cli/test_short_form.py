"""A guide's file, started as it stands: first alone, then joined; and a hub from such a file."""

from pathlib import Path

import pytest

from tests.edgesync.test_short_form import GUIDE
from tests.terminal import open_terminal

pytestmark = pytest.mark.feature("L12")


def test_it_works_alone_joins_and_syncs(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal:
        hub_file = terminal.hub_config
        hub_file.parent.mkdir()
        hub_file.write_text(
            f'[server]\nhost = "127.0.0.1"\nport = {terminal.link_port}\n'
            f'[edge]\nmode = "hub"\n[api]\nport = {terminal.http_port}\n'
        )
        edge_file = terminal.edge_config
        edge_file.parent.mkdir()
        text = GUIDE.replace("hub:6379", f"127.0.0.1:{terminal.link_port}")
        text = text.replace("port = 6379", f"port = {terminal.modbus_port}")
        edge_file.write_text(f"{text}\n[http]\nport = 0\n")

        assert "not joined yet" in terminal.out("edgesync", "check")
        edge = terminal.start("edgesync")  # `edgesync --config FILE`, no more
        terminal.until(terminal.is_edge_up)
        link = terminal.json("edgesync", "status")["link"]
        assert link["state"] == "Disconnected"
        assert "init --token" in link["problem"]
        terminal.until(lambda: terminal.logged("edgesync", "working alone"))
        assert terminal.stop(edge) == 0
        assert terminal.logged("edgesync", "working alone") == 1

        wrong_way = terminal.run("edgesync", "--config", str(hub_file), "check")
        assert wrong_way.returncode == 78
        assert "hubd --config" in wrong_way.stderr
        hub = terminal.start("edgesync", "--config", str(hub_file), "run")
        terminal.until(lambda: terminal.logged("edgesync", "hub ready"))
        token = terminal.out("hubd", "enroll", "shop-1").strip()
        terminal.out("edgesync", "init", "--token", token)
        joined = edge_file.read_text()
        # It has the hub's name for it from now on: there was none.
        assert joined.replace('[edge]\nname = "shop-1"', "[edge]").startswith(text)
        terminal.out("edgesync", "init", "--token", token)  # its answer might have been lost
        assert edge_file.read_text() == joined
        terminal.start_edge()
        terminal.out("edgesync", "sync", "--timeout", "100")
        assert terminal.json("edgesync", "status")["link"]["problem"] == ""
        assert terminal.stop(hub) == 0
