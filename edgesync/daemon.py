"""The edge as a daemon: one node with its doors, signals and the service manager."""

import gc
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from edgesync.errors import ConfigError
from edgesync.node import EdgeNode
from edgesync.signals import notify, stopping_on_signals
from edgesync_transport import descriptors

log = logging.getLogger(__name__)

WATCHDOG_DEFAULT_S: Final = 10.0


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
        async with node.serving(stopping.set):
            services.start_soon(_keep_watchdog, node)
            # What is there from here on stays: a full collection need not walk through it, which
            # stops devices and link for 20 ms and more.
            gc.collect()
            gc.freeze()
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
