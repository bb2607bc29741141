"""The edge as a daemon: one node, its control socket, HTTP, signals and the service manager."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync.errors import ConfigError
from edgesync.events import EventQuery
from edgesync.node import EdgeNode
from edgesync.serve.control import Answer, serve_control
from edgesync.signals import notify, stopping_on_signals
from edgesync_transport import descriptors

if TYPE_CHECKING:
    from edgesync.serve.resp.gather import Gather

log = logging.getLogger(__name__)

WATCHDOG_DEFAULT_S: Final = 10.0
SWITCH_S: Final = 0.0002


async def run(
    make_node: Callable[[], EdgeNode],
    *,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[EdgeNode] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until SIGTERM, SIGINT or `stop`; what it acknowledged is on disk in any case."""
    descriptors.raise_limit()
    stopping = trio.Event() if stop is None else stop
    async with (
        stopping_on_signals(stopping),
        make_node() as node,
        trio.open_nursery() as services,
    ):
        await services.start(_reload_on_hangup, node)
        await _start_services(services, node, stopping.set)
        notify("READY=1", f"STATUS=serving {node.settings.edge.name}")
        log.info("edge ready: edge=%s data=%s", node.settings.edge.name, node.data_dir)
        task_status.started(node)
        await stopping.wait()
        notify("STOPPING=1")
        services.cancel_scope.cancel()
    log.info("edge stopped")


async def _reload_on_hangup(
    node: EdgeNode, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Poll the devices that edge.toml names now, on each SIGHUP; the unchanged are not touched."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            try:
                stopped, started = await node.reload_devices()
            except ConfigError as mistake:
                log.error("devices not reloaded, all go on as before: %s", mistake)
            else:
                log.info("devices reloaded: connections stopped=%d started=%d", stopped, started)


async def _start_services(nursery: trio.Nursery, node: EdgeNode, stop: Callable[[], None]) -> None:
    await nursery.start(serve_control, node.data_dir, control_answers(node))
    if node.settings.cells.port:
        await _start_resp(nursery, node, stop)
    http = node.settings.http
    if http.port:
        from edgesync.serve.http import serve_http  # h11 only when it is wanted

        try:
            await nursery.start(serve_http, node, http.host, http.port)
        except* OSError as taken:
            # A port that is taken must not keep a site from being measured (I8).
            problem = taken.exceptions[0]
            log.error("no metrics: http.port %d on %s: %s", http.port, http.host, problem)
    nursery.start_soon(_keep_watchdog, node)


def control_answers(node: EdgeNode) -> Mapping[str, Answer]:
    """Return what the control socket of an edge answers."""

    async def status(_asked: Mapping[str, Any]) -> Any:
        return node.status()

    async def latest(_asked: Mapping[str, Any]) -> Any:
        return node.latest()

    async def events(asked: Mapping[str, Any]) -> Any:
        return node.events(msgspec.convert(asked.get("query", {}), EventQuery))

    async def dead(_asked: Mapping[str, Any]) -> Any:
        return node.dead()

    async def replay(_asked: Mapping[str, Any]) -> Any:
        return {"replayed": await node.replay_dead()}

    async def sync(asked: Mapping[str, Any]) -> Any:
        await node.sync(float(asked.get("timeout_s", 30.0)))
        return {"synced": True}

    return {
        "status": status,
        "latest": latest,
        "events": events,
        "dead": dead,
        "replay": replay,
        "sync": sync,
    }


async def _start_resp(nursery: trio.Nursery, node: EdgeNode, stop: Callable[[], None]) -> None:
    from edgesync.serve.resp.server import RespServer  # only when it is wanted

    cells = node.settings.cells

    def make_gather() -> "Gather":
        from edgesync.serve.resp.gather import Gather

        return Gather(node.points, node.record, every_s=cells.commit_every_s())

    # A commit begins and ends on a thread of its own; by default it would wait up to 5 ms for each,
    # several times as long as the disk takes, while clients keep this one busy.
    sys.setswitchinterval(SWITCH_S)
    server = RespServer(
        node.cells,
        site=node,
        password=cells.password,
        durability=cells.durability,
        clients_max=cells.clients_max,
        notify_keyspace_events=cells.notify_keyspace_events,
        edge=node.settings.edge.name,
        stop=stop,
        make_gather=make_gather,
    )
    try:
        await nursery.start(server.serve, cells.host, cells.port)
    except OSError as error:
        log.error("no Redis clients: cells.port %d on %s: %s", cells.port, cells.host, error)


async def _keep_watchdog(node: EdgeNode) -> None:
    """Tell the service manager that the loop turns and the disk still answers."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    interval_s = int(usec) / 2e6 if usec.isdigit() else WATCHDOG_DEFAULT_S
    while True:
        link = node.status().link.state
        if node.busy_s() < interval_s:
            notify("WATCHDOG=1", f"STATUS=link {link}")
        else:
            notify("STATUS=the disk does not answer")
        await trio.sleep(interval_s)


def run_blocking(settings_path: Path) -> None:
    """What `edgesync run` does."""
    trio.run(run, lambda: EdgeNode(settings_path))
