"""`edgesync doctor`: which layer fails, from the settings to the hub, and what to do about it.

Each layer stands on the one before it, so what follows the first that fails is not asked. The link
is tried with the edge's own key up to the end of CURVE's handshake: no session begins, and the
daemon's goes on.
"""

import datetime
import enum
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
import trio

from edgesync.cli.program import EX_UNAVAILABLE, MENDABLE, as_json_option
from edgesync.cli.run import files_checked
from edgesync.settings import Settings, link_keys, link_proxy, read_settings

if TYPE_CHECKING:
    from edgesync_transport.dealer import LinkLost
    from edgesync_transport.keys import KeyPair
    from edgesync_transport.proxy import Proxy

# Together below ten seconds.
RESOLVE_S: Final = 2.5
CONNECT_S: Final = 2.5
HANDSHAKE_S: Final = 3.5
SYNC_SLOW_S: Final = 0.5
FREE_MIN: Final = 0.02
# Before it, a clock was never set; the hub would show readings of that time.
CLOCK_MIN: Final = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
OFFSET_MAX_S: Final = 5.0
# States of a link whose hub has greeted it.
IN_SESSION: Final = frozenset({"Connected", "Processing", "Draining"})


class Verdict(enum.StrEnum):
    GOOD = "good"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """What was seen of a layer; `remedy` says what to do where it is not good."""

    layer: str
    verdict: Verdict
    found: str
    remedy: str = ""


@click.command(epilog="Example: edgesync doctor --json | jq -r .failing")
@as_json_option
@click.pass_obj
def doctor(config: Path, as_json: bool) -> None:
    """Name the layer that fails, from the settings to the hub, and say what to do about it.

    The layers are settings, disk, store, clock, DNS, TCP, proxy if there is one, CURVE, credentials
    and session. Takes less than ten seconds, changes nothing, and works beside the daemon and
    without it. Exit code 69 if a layer is wrong.
    """
    findings = trio.run(examine, config)
    failing = next((one for one in findings if one.verdict is Verdict.WRONG), None)
    if as_json:
        facts = {"failing": failing and failing.layer, "layers": msgspec.to_builtins(findings)}
        click.echo(json.dumps(facts, indent=2))
    else:
        for one in findings:
            click.echo(f"{one.verdict:9} {one.layer:12} {one.found}")
            if one.remedy:
                click.echo(f"{'':22} -> {one.remedy}")
        click.echo(f"{failing.layer} fails" if failing else "nothing fails")
    if failing:
        raise SystemExit(EX_UNAVAILABLE)


async def examine(config: Path) -> list[Finding]:
    """Return what is found, layer by layer; nothing after one of the link that is wrong."""
    try:
        settings = read_settings(config)
    except MENDABLE as error:
        return [Finding("settings", Verdict.WRONG, str(error), "edgesync check says all of it")]
    found = [_settings(settings, config)]
    if found[0].verdict is Verdict.WRONG:
        return found
    folder = (config.parent / settings.edge.data_dir).absolute()
    status, problem = await trio.to_thread.run_sync(_status, config, folder)
    found += _disk(folder, settings, status)
    found.append(_store(folder, status, problem))
    found.append(_clock(status))
    return found + await _link(settings, config.parent, status)


def _settings(settings: Settings, config: Path) -> Finding:
    """Return what is wrong with the settings and the files that they name.

    Without a profile of a Modbus device the daemon does not start; all else only stays closed.
    """
    from edgesync.sources.modbus.source import modbus_lines

    verdict = Verdict.WRONG
    try:
        modbus_lines(settings.modbus, config.parent)
        verdict = Verdict.DOUBTFUL
        facts, _ = files_checked(settings, config.parent)
    except MENDABLE as error:
        return Finding("settings", verdict, str(error), "edgesync check says all of it")
    if doubts := facts["doubts"]:
        return Finding("settings", Verdict.DOUBTFUL, f"{config}; {'; '.join(doubts)}")
    return Finding("settings", Verdict.GOOD, str(config))


def _status(config: Path, folder: Path) -> tuple[Mapping[str, Any], str]:
    """Return what the daemon says, or what is stored: {} and why if neither can be asked."""
    from edgesync.cli.ask import _stored_answer
    from edgesync.node import STORE
    from edgesync.serve.control import NotRunning, ask
    from edgesync.store.directory import is_there

    try:
        return ask(folder, "status"), ""
    except NotRunning:
        if not is_there(folder / STORE):
            return {}, ""
    except MENDABLE as error:
        return {}, str(error)
    try:
        return _stored_answer(config, "status"), ""
    except MENDABLE as error:
        return {}, str(error)


def _disk(folder: Path, settings: Settings, status: Mapping[str, Any]) -> Iterator[Finding]:
    place = next(one for one in (folder, *folder.parents) if one.is_dir())
    try:
        begun = time.perf_counter()
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        took_s = time.perf_counter() - begun
        room = shutil.disk_usage(place)
    except OSError as error:
        yield Finding(
            "disk", Verdict.WRONG, f"{place} cannot be written: {error.strerror}",
            "make room, mount it for writing, or give the folder to the user of the daemon",
        )  # fmt: skip
        return
    said = f"{room.free / 1e9:.1f} of {room.total / 1e9:.1f} GB free in {place}"
    said += f", a sync takes {took_s * 1000:.0f} ms"
    used = status["store"]["used_bytes"] if status else 0
    if room.free < FREE_MIN * room.total or room.free < int(settings.store.limit) - used:
        yield Finding(
            "disk", Verdict.DOUBTFUL, said,
            f"the store may grow to {int(settings.store.limit) / 1e9:.1f} GB: make room, or lower "
            "store.limit",
        )  # fmt: skip
    elif took_s > SYNC_SLOW_S:
        yield Finding(
            "disk", Verdict.DOUBTFUL, said, "each commit waits for one or more: is it worn out?"
        )
    else:
        yield Finding("disk", Verdict.GOOD, said)


def _store(folder: Path, status: Mapping[str, Any], problem: str) -> Finding:
    if problem:
        return Finding("store", Verdict.WRONG, problem, "docs/operations.md says how to restore it")
    if not status:
        return Finding("store", Verdict.GOOD, f"none yet in {folder}: the daemon makes it")
    store = status["store"]
    said = f"{store['used_bytes'] / 1e6:.1f} of {store['limit_bytes'] / 1e6:.0f} MB used"
    if store["problem"]:
        return Finding(
            "store", Verdict.WRONG, f"{said}: {store['problem']}",
            "restart the daemon once the disk is well again",
        )  # fmt: skip
    return Finding("store", Verdict.GOOD, said)


def _clock(status: Mapping[str, Any]) -> Finding:
    now = datetime.datetime.now(datetime.UTC)
    said = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    remedy = "set it, by NTP or a clock with a battery: readings carry this time"
    if now < CLOCK_MIN:
        return Finding("clock", Verdict.WRONG, f"{said}: it was never set", remedy)
    offset_s = status["link"]["clock_offset_s"] if status else None
    if offset_s is None:
        return Finding("clock", Verdict.UNKNOWN, f"{said}; compared while the daemon has its hub")
    said += f", the hub's is {offset_s:+.3f} s from it"
    if abs(offset_s) > OFFSET_MAX_S:
        return Finding("clock", Verdict.WRONG, said, remedy)
    return Finding("clock", Verdict.GOOD, said)


# -- the link ------------------------------------------------------------------------------------


async def _link(settings: Settings, folder: Path, status: Mapping[str, Any]) -> list[Finding]:
    """Return what is found on the way to the hub, up to the first layer that is wrong."""
    hub = settings.hub
    if not hub.endpoint:
        if hub.unjoined:
            join = "edgesync init --token …, with the token of `hubd enroll NAME`"
            return [Finding("hub", Verdict.WRONG, f"{hub.unjoined}: not joined yet", join)]
        return [Finding("hub", Verdict.GOOD, "none is set: everything is kept here")]
    link = status["link"] if status and status["running"] else None
    if link and link["state"] in IN_SESSION:
        via = f" through {link['via']}" if link.get("via") else ""
        said = f"{link['state']}: {link['endpoint']} answers{via}"
        return [Finding("session", Verdict.GOOD, said)]
    from edgesync_transport.dealer import split_address

    host, port = split_address(hub.endpoint)
    proxy, field = link_proxy(settings), "hub.endpoint"
    first = (host, port)
    if proxy is not None:
        first, field = (proxy.host, proxy.port), "hub.proxy"
    addresses: list[str] = []
    found = [await _resolve(first[0], addresses, field)]
    if found[-1].verdict is Verdict.GOOD:
        found.append(await _connect(addresses, first[1], field))
    if proxy is not None and found[-1].verdict is Verdict.GOOD:
        found.append(await _ask_proxy(proxy, host, port))
    if found[-1].verdict is Verdict.GOOD:
        found += await _shake_hands(settings, folder)
    if found[-1].verdict is Verdict.GOOD:
        found.append(_session(link))
    return found


async def _resolve(host: str, addresses: list[str], field: str) -> Finding:
    remedy = f"mend the name in {field}, or the name server of this machine (/etc/resolv.conf)"
    try:
        with trio.fail_after(RESOLVE_S):
            found = await trio.socket.getaddrinfo(host, 0, type=trio.socket.SOCK_STREAM)
    except trio.TooSlowError:
        said = f"no name server answered in {RESOLVE_S:g} s for {host}"
        return Finding("DNS", Verdict.WRONG, said, remedy)
    except (OSError, UnicodeError) as error:
        return Finding("DNS", Verdict.WRONG, f"{host}: {error}", remedy)
    addresses += dict.fromkeys(str(one[4][0]) for one in found)
    said = host if addresses == [host] else f"{host} is {', '.join(addresses)}"
    return Finding("DNS", Verdict.GOOD, said)


async def _connect(addresses: list[str], port: int, field: str) -> Finding:
    problems = dict[str, str]()
    answered = list[str]()

    async def connect(address: str) -> None:
        family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
        with trio.socket.socket(family, trio.socket.SOCK_STREAM) as connection:
            try:
                await connection.connect((address, port))
                answered.append(address)
            except OSError as error:
                problems[address] = error.strerror or str(error)

    with trio.move_on_after(CONNECT_S):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(connect, address)
    if answered:
        return Finding("TCP", Verdict.GOOD, f"{answered[0]} port {port} takes connections")
    silent = f"no answer in {CONNECT_S:g} s"
    said = "; ".join(f"{one} port {port}: {problems.get(one, silent)}" for one in addresses)
    remedy = (
        f"is {'the hub' if field == 'hub.endpoint' else 'the proxy'} running, and is this its port?"
        if problems
        else "a firewall drops what goes there, or there is no way: let out TCP to this port"
    )
    return Finding("TCP", Verdict.WRONG, said, remedy)


async def _ask_proxy(proxy: "Proxy", host: str, port: int) -> Finding:
    """Return what the proxy says when it is asked for the hub."""
    from edgesync_transport.proxy import ProxyError, ProxyFault, connect

    try:
        stream, _ = await connect(proxy, host, port, timeout_s=CONNECT_S)
    except ProxyError as error:
        remedy = (
            "the proxy does not reach the hub: is the hub running, and is this its port?"
            if error.fault is ProxyFault.HUB_AWAY
            else "mend user and password in hub.proxy, or have the proxy allow connections to "
            f"{host} port {port}; many allow port 443 alone, where a hub may listen"
        )
        return Finding("proxy", Verdict.WRONG, str(error), remedy)
    await stream.aclose()
    return Finding("proxy", Verdict.GOOD, f"{proxy} connects to {host} port {port}")


async def _shake_hands(settings: Settings, folder: Path) -> list[Finding]:
    """Return what CURVE's handshake says of the hub's key and of ours."""
    from edgesync_transport.dealer import Cause

    try:
        keys = link_keys(settings, folder)
    except MENDABLE as error:
        return [Finding("credentials", Verdict.WRONG, str(error))]
    lost = await _handshake(settings, keys)
    proven = Finding("CURVE", Verdict.GOOD, "the hub has proven its key")
    if lost is None:
        return [proven, Finding("credentials", Verdict.GOOD, "the hub knows this edge's key")]
    if lost.cause is Cause.REFUSED:
        remedy = "on the hub `hubd enroll NAME --again`, here `edgesync init --token …`"
        return [proven, Finding("credentials", Verdict.WRONG, lost.cause.value, remedy)]
    if lost.cause is Cause.FULL:
        remedy = "raise the hub's limit of descriptors (LimitNOFILE=)"
        return [proven, Finding("session", Verdict.WRONG, lost.cause.value, remedy)]
    remedy = (
        "is it the hub this edge has joined, and no proxy before it? A hub with a new key is "
        "joined again: `hubd enroll NAME --again`, `edgesync init --token …`"
    )
    return [Finding("CURVE", Verdict.WRONG, str(lost), remedy)]


async def _handshake(settings: Settings, keys: "KeyPair") -> "LinkLost | None":
    """Open a link and close it; returns why that failed, if it did."""
    from edgesync_transport.dealer import LinkLost, open_connect
    from edgesync_transport.sockets import LinkSettings

    hub, limits = settings.hub, LinkSettings(handshake_s=HANDSHAKE_S, connect_s=CONNECT_S)
    async with open_connect(
        hub.endpoint,
        server_key=hub.server_key,
        keys=keys,
        settings=limits,
        proxy=link_proxy(settings),
    ) as connect:
        try:
            link = await connect()
            await link.wait_up()
        except LinkLost as lost:
            return lost
        await link.aclose()
    return None


def _session(link: Mapping[str, Any] | None) -> Finding:
    """Return what the daemon says: the versions, and whatever else the hub refuses."""
    if link is None:
        said = "the daemon is not running: the hub tells its version when a session begins"
        return Finding("session", Verdict.UNKNOWN, said, "edgesync run")
    if link["problem"]:
        said = f"{link['state']}: {link['problem']}"
        remedy = "it tries again by itself; if this stays, compare both versions (--version)"
        return Finding("session", Verdict.WRONG, said, remedy)
    said = f"{link['state']}; it tries again within sync.reconnect_cap"
    return Finding("session", Verdict.DOUBTFUL, said)
