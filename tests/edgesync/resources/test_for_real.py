"""Each level reached for real: up, what is done about it, and down again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.edgesync.resources.rig import Edge, Tree, eventually, short_disk, short_memory
from tests.edgesync.resources.trees import battery, grow, meminfo, pressure

pytestmark = [pytest.mark.feature("L8"), pytest.mark.slow]

GIB = 1 << 30
DOWN = ["critical", "high", "warning", "normal"]


def check_critical(edge: Edge, resource: str) -> None:
    """What adds is refused, what reads or takes away goes on."""
    with pytest.raises(redis.ResponseError, match=rf"edge resource critical: .*{resource} (9|100)"):
        edge.client.set("new", "v")
    with pytest.raises(redis.ResponseError, match="edge resource critical"):
        edge.client.pipeline(transaction=True).set("new", "v").execute()
    assert edge.client.get("kept") == "v"
    assert edge.client.delete("spare") == 1
    assert edge.level() == "critical"


def test_memory_is_used_up_and_given_back(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with short_memory(tmp_path / "system") as memory:
        if isinstance(memory, Tree):
            record_property("stand_in", memory.how)
        edge = Edge(tmp_path, data=tmp_path / "data", system=memory.system, join=memory.join)
        try:
            edge.client.set("kept", "v")
            edge.client.set("spare", "v")
            assert edge.resource("memory")["limit"] == 256 << 20
            assert edge.watch("memory", "normal") == ["normal"]
            memory.reach(edge, 85)
            edge.watch("memory", "warning")
            assert edge.resource("memory")["actions"] == ["sync_now", "offload", "compact"]
            memory.reach(edge, 92.5)
            edge.watch("memory", "high")
            assert "compress" in edge.resource("memory")["actions"]
            edge.client.set("kept", "v")
            memory.reach(edge, 97)
            edge.watch("memory", "critical")
            assert "refuse_writes" in edge.resource("memory")["actions"]
            check_critical(edge, "memory")
            memory.reach(edge, 20)
            assert edge.watch("memory", "normal") == DOWN
            assert edge.client.set("new", "v")
        finally:
            edge.close()


@pytest.mark.mounts
def test_the_disk_fills_up_and_is_emptied(tmp_path: Path) -> None:
    with short_disk(tmp_path) as disk:
        edge = Edge(tmp_path, data=disk.data)
        try:
            edge.client.set("kept", "v")
            edge.client.set("spare", "v")
            assert edge.watch("disk", "normal") == ["normal"]
            for percent, level in ((75, "warning"), (90, "high"), (97, "critical")):
                disk.reach(edge, percent)
                edge.watch("disk", level)
            check_critical(edge, "disk")
            disk.reach(edge, 30)
            assert edge.watch("disk", "normal") == DOWN
            assert edge.client.set("new", "v")
        finally:
            edge.close()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[tuple[Edge, Path]]:
    """An edge on a machine that is a tree of files."""
    system = grow(tmp_path / "system", meminfo(16 * GIB, 12 * GIB))
    grow(system, battery(90, "Discharging"))
    grow(system, {f"proc/pressure/{one}": pressure(0.0) for one in ("memory", "io", "cpu")})
    # The disk below is this machine's own, however full it is.
    more = "disk_levels = [90, 95, 100]\n"
    edge = Edge(tmp_path, data=tmp_path / "data", system=system, more=more)
    yield edge, system
    edge.close()


def test_a_battery_runs_down_while_programs_wait_for_memory(told: tuple[Edge, Path]) -> None:
    edge, system = told
    for charge, level in ((90, "normal"), (49, "warning"), (19, "high"), (9, "critical")):
        grow(system, battery(charge, "Discharging"))
        edge.watch("battery", level)
        assert edge.resource("battery")["percent"] == charge
    for stall, level in ((5.0, "normal"), (12.0, "warning"), (45.0, "high")):
        grow(system, {"proc/pressure/memory": pressure(stall)})
        edge.watch("memory", level)
        assert edge.resource("memory")["percent"] == 25
    grow(system, {"proc/pressure/io": pressure(50.0, 25.0)})
    edge.watch("io", "warning")
    assert edge.client.set("key", "v"), "neither is a reason to refuse a write"
    grow(system, battery(10, "Charging"))
    grow(system, {f"proc/pressure/{one}": pressure(0.0) for one in ("memory", "io")})
    assert edge.watch("battery", "normal") == DOWN
    assert eventually(lambda: edge.level() == "normal")
