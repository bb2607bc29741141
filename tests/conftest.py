"""What all tests share: the markers, and `--features`, which shows what each feature rests on."""

import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from edgesync.resources import disk
from edgesync_transport import descriptors

if TYPE_CHECKING:
    from tests.postgresql import Server

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "features.md"
ROW = re.compile(r"^\|\s*([A-Z]\d+)\s*\|\s*([^|]+?)\s*\|")
FEATURE_ID = re.compile(r"^[A-Z]\d+$")

# Folders and files that are slow as a whole: each of their tests starts programs, waits for their
# disks, or runs many worlds. So is each test that asks PostgreSQL. Elsewhere a test is marked by
# itself.
SLOW = (
    "browser",
    "cells/test_convergence.py",
    "crash",
    "edgesync/cli",
    "edgesync/demo",
    "edgesync/resources/test_monitor.py",
    "edgesync/rules/test_part.py",
    "edgesync/rules/test_rest.py",
    "edgesync/serve/device_http/test_door.py",
    "edgesync/serve/mqtt/test_clients.py",
    "edgesync/serve/resp/test_blocking.py",
    "edgesync/serve/resp/test_server.py",
    "edgesync/store/test_overflow.py",
    "edgesync/store/test_points.py",
    "edgesync/sync/test_active_active.py",
    "edgesync/sync/test_bad_link.py",
    "edgesync/sync/test_cells_trouble.py",
    "edgesync/sync/test_eviction_link.py",
    "edgesync/sync/test_full_lanes.py",
    "edgesync/sync/test_lost_hub.py",
    "edgesync/sync/test_restored_stores.py",
    "edgesync/sync/test_return.py",
    "edgesync/test_daemon.py",
    "edgesync/test_guide.py",
    "edgesync/test_hostile_entities.py",
    "edgesync/test_readme.py",
    "edgesync/test_rollups.py",
    "edgesync/test_settings_act.py",
    "hubd/api/test_alerts.py",
    "hubd/api/test_conflicts.py",
    "hubd/api/test_entities.py",
    "hubd/api/test_events.py",
    "hubd/api/test_hostile.py",
    "hubd/api/test_keys.py",
    "hubd/api/test_questions.py",
    "hubd/api/test_rpc.py",
    "hubd/api/test_rules.py",
    "hubd/api/test_stream.py",
    "hubd/api/test_tenants.py",
    "hubd/api/test_users.py",
    "hubd/cli",
    "hubd/db/test_engine.py",
    "hubd/log/test_lmdb.py",
    "hubd/owned/test_postgresql.py",
    "hubd/project/test_bounds.py",
    "hubd/project/test_fresh.py",
    "hubd/project/test_hostile.py",
    "hubd/project/test_kill.py",
    "hubd/project/test_telemetry.py",
    "hubd/state/test_damage.py",
    "hubd/state/test_schema.py",
    "hubd/test_admission.py",
    "hubd/test_backup.py",
    "hubd/test_descriptors.py",
    "hubd/test_hold.py",
    "hubd/test_postgresql.py",
    "hubd/test_trimming.py",
    "hubd/web/test_entity.py",
    "hubd/web/test_rules.py",
    "hubd/web/test_shown.py",
    "outages",
    "sim",
    "transport/test_zmq_faults.py",
    "transport/test_zmq_strangers.py",
)

# A busy machine is no failing test.
hypothesis.settings.register_profile("edgesync", deadline=None)
# Chosen by arm/arm64.sh: examples that take an instant elsewhere take a second under emulation.
hypothesis.settings.register_profile(
    "emulated", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("edgesync")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--features",
        action="store_true",
        help="print every feature with the tests that show it, and run nothing",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A suite started in the background of a script inherits "Ctrl-C is ignored", and so would every
    # program it starts and means to end with one.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in (
        "feature(*ids): the feature rows this test shows, e.g. 'S4'",
        "setting(*names): keys of a settings file this test shows to act, e.g. 'sync.heartbeat'",
        "slow: takes more than about half a second; left out of `make quick`",
        "long: takes minutes; only in `make long`",
        "model: the exhaustive search of the protocol's model",
        "root: needs root (a loop device); left out, and named, for an ordinary user",
        "mounts: mounts file systems in memory; an ordinary user runs it in a user namespace",
        "networks: makes networks in a user namespace; left out, and named, where there are none",
    ):
        config.addinivalue_line("markers", line)
    if config.getoption("--features"):
        config.option.collectonly = True
        config.option.verbose = min(config.option.verbose, -2)


# Tests that cannot run here, each with its reason; of all workers.
LEFT_OUT = dict[str, str]()


@functools.cache
def no_namespaces() -> str:
    """Return why this user can have no namespaces, as in a chroot; "" where it can."""
    command = ["unshare", "--map-root-user", "--mount", "--net", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "unshare failed" if done.returncode else ""


def obstacle(item: pytest.Item) -> str:
    """Return why a test cannot run here, "" for nearly all."""
    marks = {mark.name for mark in item.iter_markers()}
    is_root = os.geteuid() == 0
    if "root" in marks and not is_root:
        return "it needs root (a loop device)"
    if "networks" in marks or ("mounts" in marks and not is_root):
        problem = no_namespaces()
        return problem and f"it needs namespaces ({problem})"
    return ""


@pytest.fixture(scope="session", autouse=True)
def _machine_with_room() -> Iterator[None]:
    """Tests do not depend on how full this machine is; file systems they mount are read as are."""
    read, machine = disk.read_filesystem, Path(tempfile.gettempdir()).stat().st_dev

    def read_with_room(folder: Path) -> disk.Disk | None:
        found = read(folder)
        if found is None or folder.stat().st_dev != machine:
            return found
        return disk.Disk(found.limit // 4, found.limit)

    disk.read_filesystem = read_with_room
    yield
    disk.read_filesystem = read


@pytest.fixture(scope="session")
def postgresql() -> "Iterator[Server]":
    """A PostgreSQL server of this session's; it is a failure when there is none to be had."""
    from tests.postgresql import Server  # whose driver few tests need

    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def database(postgresql: "Server") -> Iterator[str]:
    """Return the URL of an empty PostgreSQL database."""
    with postgresql.database() as url:
        yield url


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that mounts in a user namespace, where an ordinary user may."""
    if os.geteuid() == 0 or not pyfuncitem.get_closest_marker("mounts"):
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    folder = Path(str(pyfuncitem.funcargs["tmp_path"]))
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "--", *command, f"--basetemp={folder / 'inner'}"],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        remedy = "run it as root, or let users have namespaces (sysctl user.max_user_namespaces)"
        pytest.fail(f"{remedy}\n{done.stdout[-4000:]}{done.stderr[-1000:]}", pytrace=False)
    return True


def features_of(item: pytest.Item) -> list[str]:
    ids = [str(one) for mark in item.iter_markers("feature") for one in mark.args]
    for one in ids:
        if not FEATURE_ID.match(one):
            raise pytest.UsageError(f"{item.nodeid}: {one!r} is no feature id such as 'S4'")
    return ids


def titles() -> dict[str, str]:
    if not TABLE.exists():
        return {}
    rows = (ROW.match(line) for line in TABLE.read_text(encoding="utf-8").splitlines())
    return {row[1]: row[2] for row in rows if row}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for reason in sorted(set(LEFT_OUT.values())):
        tests = ", ".join(sorted(one for one, its in LEFT_OUT.items() if its == reason))
        terminalreporter.write_line(f"not run, for {reason}: {tests}")
    for report in terminalreporter.getreports("passed"):
        for name, how in report.user_properties:
            if name == "stand_in":
                terminalreporter.write_line(f"not for real: {report.nodeid}: {how}")
    if not config.getoption("--features"):
        return
    shown: dict[str, set[str]] = defaultdict(set)
    for item in getattr(config, "_edgesync_items", []):
        for one in features_of(item):
            shown[one].add(item.nodeid.partition("[")[0])
    names = titles()
    for one in sorted({*names, *shown}, key=lambda name: (name[0], int(name[1:]))):
        terminalreporter.write_line(f"{one:4} {names.get(one, '')[:90]}")
        for test in sorted(shown[one]):
            terminalreporter.write_line(f"       {test}")
    terminalreporter.write_line(f"{len(shown)} features are shown by tests")


def asks_postgresql(item: pytest.Item) -> bool:
    """Return whether a test needs the server, whose start and syncs take their time."""
    names = getattr(item, "fixturenames", ())
    case = getattr(item, "callspec", None)
    return "postgresql" in names or (case is not None and "postgresql" in case.id.split("-"))


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None]:
    slow = tuple(TESTS / one for one in SLOW)
    for item in items:
        features_of(item)
        if any(item.path.is_relative_to(one) for one in slow) or asks_postgresql(item):
            item.add_marker("slow")
    yield  # `-m` chooses
    LEFT_OUT.update((item.nodeid, reason) for item in items if (reason := obstacle(item)))
    items[:] = [item for item in items if item.nodeid not in LEFT_OUT]
    config._edgesync_items = items  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if output := getattr(session.config, "workeroutput", None):
        output["left_out"] = LEFT_OUT


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker left out."""
    LEFT_OUT.update(getattr(node, "workeroutput", {}).get("left_out", {}))


@pytest.fixture(autouse=True)
def _doors_open() -> Iterator[None]:
    """Forget what is told for a minute, of doors that were full and descriptors that were short."""
    yield
    descriptors._full.clear()
    descriptors._short_at = float("-inf")
