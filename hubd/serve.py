"""The hub as one tree of tasks: link, log, projectors, HTTP."""

import contextlib
import functools
import gc
import logging
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any, Final, TypeVar

import msgspec
import trio

from edgesync import __version__
from edgesync.entities.keys import policies
from edgesync.errors import EdgesyncError, StoreCorrupt
from edgesync.model import Event, EventType, Lane
from edgesync.resend import Range
from edgesync.serve.control import HUB, Answer, serve_control
from edgesync.signals import notify, stopping_on_signals
from edgesync_transport import descriptors
from edgesync_transport.keys import KeyPair
from edgesync_transport.messages import Limits
from edgesync_transport.receiver import ReceiverSettings
from edgesync_transport.router import open_hearing
from edgesync_transport.zap import KeyTable
from hubd import data_folder
from hubd.admission import Admission
from hubd.api import fleet
from hubd.api import objects as objects_api
from hubd.api import rpc as rpc_api
from hubd.api import rules as rules_api
from hubd.api import tunnels as tunnels_api
from hubd.api.app import make_app
from hubd.api.context import Context
from hubd.api.edges import give_up_keys
from hubd.api.errors import ApiError
from hubd.api.logins import Logins
from hubd.api.params import Body, CallBody, CallsPage, EdgesPage, OneCall, OneEdge, Params
from hubd.api.rule_shapes import Run
from hubd.api.server import serve_http
from hubd.api.tenancy import TenantTokens
from hubd.cells import Answers, HubCells, Keyspaces
from hubd.cells.feed import Feed
from hubd.cells.keyspaces import cells_path
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import Journal
from hubd.edge_service import EdgeService
from hubd.errors import HubError, RestoreUnfinished, StateUnreadable, TenantUnknown
from hubd.hold import DatabaseHold, holding_folder
from hubd.link.rates import Rates
from hubd.link.sessions import HubLink
from hubd.log.lmdb import LmdbLog
from hubd.log.retention import Retention
from hubd.objects.service import ObjectService
from hubd.objects.store import FOLDER as OBJECTS
from hubd.objects.store import Objects
from hubd.presence import Presence
from hubd.project.live import Live
from hubd.project.projectors import VIEWS, Projectors, run_projectors
from hubd.project.readers import ProjectorReaders
from hubd.registry import DEFAULT_TENANT, Registry, open_registry
from hubd.registry.enrol import Enrolment, enrol_route, token_maker
from hubd.rpc.calls import Calls, encoded
from hubd.rpc.service import RpcService
from hubd.rules.bundles import Bundles
from hubd.rules.service import RuleService
from hubd.settings import Settings
from hubd.state import UNREADABLE, State, open_state
from hubd.state.copies import copy_schema, copy_state
from hubd.state.file import open_beside
from hubd.state.schema import Hub, open_schema, open_schema_beside
from hubd.state.upkeep import keep_up
from hubd.tunnel.service import Tunnels

log = logging.getLogger(__name__)

T = TypeVar("T")

# Who waits for the registry is told to come again rather than kept for long.
REGISTRY_BUSY_S: Final = 1.0

# How long a thread that projects may keep the interpreter from the one that answers edges. Each
# call into ZeroMQ or LMDB gives it away, and with Python's 5 ms every ack waited for that again and
# again (bench/fleet.py).
SWITCH_S: Final = 0.0005

# A third of what the unit of `hubd service` grants.
WATCHDOG_S: Final = 20.0


class Running(msgspec.Struct, frozen=True):
    """Where a hub that has started can be reached."""

    link_addresses: tuple[str, ...]
    http_url: str


def hub_of(folder: Path, keys: KeyPair) -> Hub:
    return Hub(keys.public, f"{socket.gethostname()}:{folder}")


def copier_of(settings: Settings, folder: Path, hub_log: LmdbLog) -> Callable[[Path], int]:
    """Return what copies derived state into a file; see `copy_state`."""
    if (url := data_folder.database_url(settings)) is not None:
        return lambda target: copy_schema(url, target, hub_log.generation, VIEWS)
    return lambda target: copy_state(folder / data_folder.STATE, target, hub_log.generation, VIEWS)


async def run(
    settings: Settings,
    folder: Path,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve from `folder` until `stop` is set.

    Raises HubHeld when another hub uses it, and RestoreUnfinished.
    """
    if (folder / data_folder.RESTORE_DRAFT).exists() and not (folder / data_folder.LOG).exists():
        raise RestoreUnfinished(str(folder / data_folder.RESTORE_DRAFT))
    keys = data_folder.load_keys(folder)
    url = data_folder.database_url(settings)
    with (
        holding_folder(folder),
        contextlib.closing(DatabaseHold(url)) as hold,
        contextlib.closing(
            open_registry(folder, url, busy_s=REGISTRY_BUSY_S, lazily=True)
        ) as registry,
    ):
        await hold.begin()
        async with open_log(settings, folder) as hub_log:
            state = open_derived(settings, folder, keys, hub_log)
            keyspaces = open_keyspaces(settings, folder, hub_log)
            with contextlib.closing(state), contextlib.closing(keyspaces):
                await _serve(
                    settings,
                    folder,
                    keys,
                    registry,
                    hold,
                    hub_log,
                    state,
                    keyspaces,
                    stop,
                    task_status,
                )


@contextlib.asynccontextmanager
async def open_log(settings: Settings, folder: Path) -> AsyncIterator[LmdbLog]:
    hub_log = LmdbLog(
        folder / data_folder.LOG,
        map_bytes_max=int(settings.log.limit),
        has_backups=settings.log.managed_backups,
    )
    try:
        yield hub_log
    finally:
        with trio.CancelScope(shield=True):
            await hub_log.aclose()


def open_derived(settings: Settings, folder: Path, keys: KeyPair, hub_log: LmdbLog) -> State:
    """Open what is made from the log; raises ConfigError, StoreError, DatabaseTaken."""

    def head() -> int:
        return hub_log.head

    if (url := data_folder.database_url(settings)) is None:
        return open_state(folder / data_folder.STATE, hub_log.generation, head)
    return open_schema(url, hub_of(folder, keys), hub_log.generation, head)


def open_derived_beside(settings: Settings, folder: Path) -> State | None:
    """Open it to read from, as it is: the hub may be running. None when it was never made."""
    if (url := data_folder.database_url(settings)) is not None:
        return open_schema_beside(url)
    return (
        open_beside(folder / data_folder.STATE) if (folder / data_folder.STATE).exists() else None
    )


def open_keyspaces(settings: Settings, folder: Path, hub_log: LmdbLog) -> Keyspaces:
    """Open the keys of the default tenant; those of others follow with `set_tenants`."""

    def open_answers(tenant: str, feed: Feed) -> Answers:
        cells = open_cells(settings, folder, hub_log, tenant)
        return make_answers(
            settings, cells, hub_log, tenant, feed, lambda edge: found.grant_of(edge)
        )

    found = Keyspaces(hub_log, open_answers)
    return found


def make_answers(
    settings: Settings,
    cells: HubCells,
    hub_log: LmdbLog,
    tenant: str = DEFAULT_TENANT,
    feed: Feed | None = None,
    grant_of: Callable[[str], tuple[bytes, ...]] = lambda _edge: (),
) -> Answers:
    return Answers(
        cells,
        hub_log,
        tenant=tenant,
        feed=feed,
        grant_of=grant_of,
        retire_after_s=float(settings.cells.retire_after),
        conflicts_s=float(settings.cells.conflicts_for),
    )


def open_cells(
    settings: Settings, folder: Path, hub_log: LmdbLog, tenant: str = DEFAULT_TENANT
) -> HubCells:
    """Open a tenant's keys; damaged files move aside, and a new keyspace is made from the log.

    What the log has dropped is in the damaged files alone: edges notice the new keyspace then, and
    tell it all they hold.
    """
    path = cells_path(folder, tenant)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _open_cells(settings, path, hub_log)
    except StoreCorrupt as error:
        aside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        log.error("%s: kept as %s, the keys are made again from the log", error, aside)
        return _open_cells(settings, path, hub_log, is_again=True)


def _open_cells(
    settings: Settings, path: Path, hub_log: LmdbLog, *, is_again: bool = False
) -> HubCells:
    section = settings.cells
    return HubCells(
        path,
        hub_log.generation,
        hub_log.head,
        map_bytes_max=int(section.limit),
        strategies=policies(section.strategies()),
        value_max=int(section.value_limit),
        random=SystemRandom(),
        oldest=hub_log.oldest,
        is_again=is_again,
    )


async def change_keys(
    settings: Settings, folder: Path, tenant: str, change: Callable[[Answers], Awaitable[T]]
) -> T:
    """Change the keys of a hub that does not serve, through its log; raises HubHeld."""
    with (
        holding_folder(folder),
        contextlib.closing(open_registry(folder, data_folder.database_url(settings))) as registry,
    ):
        known = registry.changes()
        async with open_log(settings, folder) as hub_log:
            keyspaces = open_keyspaces(settings, folder, hub_log)
            with contextlib.closing(keyspaces):
                keyspaces.set_tenants([tenant], {} if known is None else known.owners)
                answers = keyspaces.of(tenant)
                if answers is None:
                    raise TenantUnknown(tenant)
                async with trio.open_nursery() as nursery:
                    await nursery.start(keyspaces.run)
                    found = await change(answers)
                    nursery.cancel_scope.cancel()
                return found


async def _serve(
    settings: Settings,
    folder: Path,
    keys: KeyPair,
    registry: Registry,
    hold: DatabaseHold,
    hub_log: LmdbLog,
    state: State,
    keyspaces: Keyspaces,
    stop: trio.Event,
    task_status: trio.TaskStatus[Running],
) -> None:
    table = KeyTable()
    rates = Rates(settings.limits.rates(), tenant_of=keyspaces.owner_of)
    presence = Presence(hub_log, address_of=table.address_of, rates=rates)
    live = Live()
    projectors = Projectors(
        live,
        series=settings.limits.series_limits(keyspaces.owner_of),
        memory_bytes=int(settings.state.memory),
    )
    downlink = Delivery(Journal(registry.owned))
    rpc = RpcService(Calls(registry.owned, downlink.journal), downlink, hub_log, keyspaces.owner_of)
    downlink.observer = rpc
    rules = RuleService(Bundles(registry.owned), downlink, state, live.rules)
    edge_service = EdgeService(
        registry, downlink, valid_s=float(settings.enrol.valid), clock_ns=time.time_ns,
        token_maker=functools.partial(token_maker, settings, server_key=keys.public),
    )  # fmt: skip
    retention = Retention(
        hub_log, settings.log.policy(), [ProjectorReaders(state, projectors), keyspaces, rpc]
    )
    tunnels = Tunnels(registry.audit.note)
    objects = ObjectService(Objects(registry.owned, folder / OBJECTS, settings.objects))
    tokens, logins = TenantTokens(), Logins(registry.users, registry.audit)
    admission = Admission(registry, hold, folder, table, presence, keyspaces, tokens, logins)
    context = Context(
        hub=presence,
        state=state,
        live=live,
        projectors=projectors,
        answers=keyspaces.default,
        settings=settings.api,
        version=__version__,
        registry_problem=lambda: admission.problem,
        retention=lambda: retention.standing,
        all_answers=lambda: dict(keyspaces.all()),
        rpc=rpc,
        rules=rules,
        logins=logins,
        edges=edge_service,
        tunnels=tunnels,
        objects=objects,
    )
    enrolment = Enrolment(registry, settings, server_key=keys.public)
    app = make_app(
        context,
        answers_of=keyspaces.of,
        tenant_tokens=tokens,
        open_routes=[enrol_route(enrolment)],
    )
    # Before anybody can knock: an edge that is refused takes its time to come again.
    await admission.begin()
    async with open_hearing(
        settings.hub.listen, server_keys=keys, edges=table, welcome=enrolment.of_guest
    ) as hearing:
        link = HubLink(
            hearing,
            hub_log,
            presence,
            _receiver_settings(settings, keyspaces.default.cells.start),
            answers=keyspaces,
            rates=rates,
            projection=projectors,
            downlink=downlink,
            tunnels=tunnels,
            objects=objects,
        )
        # HTTP outlives the rest: it drains by itself once `stop` is set, and must not be cancelled.
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            look = functools.partial(_look_at_registry, admission, link, keyspaces)
            enrolment.on_enrolled = logins.on_changed = edge_service.on_changed = look
            nursery.start_soon(admission.watch, look)
            await nursery.start(keyspaces.run)
            nursery.start_soon(link.run)
            nursery.start_soon(tunnels.run, link)
            nursery.start_soon(objects.run, link)
            nursery.start_soon(rpc.run)
            nursery.start_soon(rules.run)
            nursery.start_soon(run_projectors, hub_log, state, projectors)
            nursery.start_soon(keep_up, state, settings.retention)
            nursery.start_soon(retention.run)
            await nursery.start(
                functools.partial(
                    serve_control,
                    folder,
                    _control_answers(
                        settings, context, keyspaces, hub_log, retention, registry, folder
                    ),
                    name=HUB,
                    mendable=(EdgesyncError, HubError, OSError, *UNREADABLE),
                )
            )
            url = await outer.start(serve_http, app, settings.api, stop)
            log.info("hub ready: link=%s http=%s", ",".join(hearing.addresses), url)
            task_status.started(Running(hearing.addresses, url))
            await stop.wait()
            await link.farewell()
            await hearing.aclose()
            nursery.cancel_scope.cancel()
    log.info("hub stopped")


def _control_answers(
    settings: Settings,
    context: Context,
    keyspaces: Keyspaces,
    hub_log: LmdbLog,
    retention: Retention,
    registry: Registry,
    folder: Path,
) -> Mapping[str, Answer]:
    """Return what the control socket answers: whoever may read the folder needs no token."""
    from hubd.backup import Source, backup, stored_in  # which names the files of this module

    async def edges(_asked: Mapping[str, Any]) -> Any:
        return {view.edge: view for view in context.hub.edges()}

    async def status(_asked: Mapping[str, Any]) -> Any:
        try:
            return await fleet.stats(context, EdgesPage(limit=1))
        except UNREADABLE as error:
            raise StateUnreadable(str(getattr(error, "orig", None) or error)) from error

    async def copy(asked: Mapping[str, Any]) -> Any:
        copies = {tenant: answers.cells.copy for tenant, answers in keyspaces.all()}
        source = Source(
            folder=folder, hub_log=hub_log, copy_keys=copies, owned=registry.owned,
            copy_state=copier_of(settings, folder, hub_log),
            settings=str(asked.get("settings", "")),
        )  # fmt: skip
        async with retention.hold():
            await backup(source, Path(str(asked.get("target", ""))))
        return {"head": hub_log.head, "stored": stored_in(hub_log)}

    async def retire(asked: Mapping[str, Any]) -> Any:
        edge = str(asked.get("edge", ""))
        return {"retired": await give_up_keys(context.seen_answers().values(), edge)}

    async def resend(asked: Mapping[str, Any]) -> Any:
        wanted, now_ns = msgspec.convert(asked.get("range"), Range), context.now_ns()
        event = Event(
            type=EventType.RESEND, body=msgspec.json.encode(wanted), time_ns=now_ns,
            created_ns=now_ns,
        )  # fmt: skip
        assert context.rpc is not None
        await context.rpc.delivery.send(str(asked.get("edge", "")), Lane.NORMAL, encoded(event))
        return wanted

    calls = {name: _asked(context, *one) for name, one in API_ANSWERS.items()}
    return {
        "edges": edges,
        "status": status,
        "backup": copy,
        "retire": retire,
        "resend": resend,
        **calls,
    }


# What of the API is asked over the control socket: parameters, and what answers.
API_ANSWERS: Final[Mapping[str, tuple[type[Params], Callable[..., Awaitable[Any]]]]] = {
    "rpc_send": (OneEdge, rpc_api.send),
    "rpc_list": (CallsPage, rpc_api.calls),
    "rpc_show": (OneCall, rpc_api.one_call),
    "downlink": (OneEdge, rpc_api.downlink),
    "rules": (OneEdge, rules_api.edge_rules),
    "rules_run": (OneEdge, rules_api.run),
    "objects": (OneEdge, objects_api.edge_objects),
    "tunnel_open": (OneEdge, tunnels_api.open_at_console),
    "tunnel_list": (tunnels_api.TunnelsPage, tunnels_api.tunnels),
    "tunnel_show": (tunnels_api.OneTunnel, tunnels_api.one_tunnel),
    "tunnel_close": (tunnels_api.OfTunnel, tunnels_api.close_at_console),
}
BODIES: Final[Mapping[Callable[..., Any], type[Body]]] = {
    rpc_api.send: CallBody,
    rules_api.run: Run,
    tunnels_api.open_at_console: tunnels_api.TunnelBody,
    tunnels_api.close_at_console: tunnels_api.CloseBody,
}


def _asked(context: Context, shape: type[Params], handler: Callable[..., Awaitable[Any]]) -> Answer:
    """Return what answers as the API does, to the operator."""

    async def answer(asked: Mapping[str, Any]) -> Any:
        query = asked.get("query", {"edge": asked.get("edge", "")})
        params = msgspec.convert(query, shape)
        try:
            if "body" in asked:
                body = msgspec.json.decode(msgspec.json.encode(asked["body"]), type=BODIES[handler])
                return await handler(context, params, body)
            if asked.get("clear") and context.rpc is not None:
                await context.rpc.clear(str(query["edge"]))
            return await handler(context, params)
        except ApiError as error:
            problem = error.problem
            raise HubError(f"{problem.error}{problem.remedy and '; ' + problem.remedy}") from error

    return answer


def _receiver_settings(settings: Settings, start: int) -> ReceiverSettings:
    return ReceiverSettings(
        limits=Limits(window_batches=settings.link.window_batches),
        heartbeat_s=float(settings.link.heartbeat),
        heartbeats_missed_max=settings.link.heartbeats_missed_max,
        takeovers_max=settings.link.takeovers_max,
        holdoff_s=float(settings.link.holdoff),
        restore_safe=settings.log.managed_backups,
        start=start,
    )


async def _look_at_registry(admission: Admission, link: HubLink, keyspaces: Keyspaces) -> None:
    revoked = await admission.refresh()
    # Nobody is told of them again, and whoever looks may be cancelled by what was found.
    with trio.CancelScope(shield=True):
        for edge in revoked:
            await link.revoke(edge)
            keyspaces.forget(edge)


async def run_until_signalled(settings: Settings, folder: Path) -> None:
    """`run`, ended by SIGTERM or SIGINT."""
    descriptors.raise_limit()
    sys.setswitchinterval(SWITCH_S)
    stop = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[Running]) -> None:
        await run(settings, folder, stop=stop, task_status=task_status)

    async with stopping_on_signals(stop), trio.open_nursery() as nursery:
        running = await nursery.start(serve)
        # What is there from here on stays: a full collection that walks through it stops all edges
        # for 50 to 100 ms, and comes while one of them takes in 10,000 entities.
        gc.collect()
        gc.freeze()
        notify("READY=1", f"STATUS=serving {running.http_url}")
        nursery.start_soon(_keep_watchdog, stop)
    # The nursery ends with the hub.


async def _keep_watchdog(stop: trio.Event) -> None:
    """Tell the service manager that the loop turns, until the hub is to stop."""
    while not stop.is_set():
        notify("WATCHDOG=1")
        with trio.move_on_after(WATCHDOG_S):
            await stop.wait()
    notify("STOPPING=1")
