"""/metrics, /healthz and /status over HTTP/1.1, for a loopback scraper.

h11 does the protocol. A web framework would cost 14 MB, the Prometheus client 12 MB more: half of
what an idle edge may use. Nothing here takes a body, and each connection answers one request.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import h11
import msgspec
import trio

from edgesync.parts.part import DoorPart
from edgesync.status import LaneStatus, RulesStatus, Status
from edgesync_transport import descriptors
from edgesync_transport.descriptors import QUESTIONS, Door
from edgesync_transport.lanes.acktimes import BOUNDS_S

if TYPE_CHECKING:
    from edgesync.node import EdgeNode

log = logging.getLogger(__name__)

HEAD_BYTES_MAX: Final = 16 * 1024
HEAD_LINES_MAX: Final = 100
REQUEST_S: Final = 5.0
CONNECTIONS_MAX: Final = 32
# Above this part of its limit the store refuses new facts.
SERIES_ALARM: Final = 0.9
STORE_PRESSED: Final = 0.9
MQTT: Final = (
    ("clients", "gauge", "Clients that are connected."),
    ("messages_total", "counter", "Messages that came since the start."),
    ("readings_total", "counter", "Readings of them stored since the start."),
    ("refused_total", "counter", "Messages not stored, or not whole, since the start."),
    ("rejected_total", "counter", "Connections not let in since the start."),
    ("held_up_total", "counter", "Attempts not looked at: their address had guessed too much."),
)
DEVICE_HTTP: Final = (
    ("connections", "gauge", "Connections of HTTP devices."),
    ("requests_total", "counter", "Requests of HTTP devices since the start."),
    ("readings_total", "counter", "Readings of them stored since the start."),
    ("refused_total", "counter", "Requests not stored since the start."),
    ("rejected_total", "counter", "Requests without a known token, or no HTTP, since the start."),
    ("held_up_total", "counter", "Attempts not looked at: their address had guessed too much."),
)
LEVELS: Final = ("normal", "warning", "high", "critical")

Page = tuple[int, bytes, bytes]  # status, content type, body


class HttpPart(DoorPart):
    offer = "metrics"

    @property
    def address(self) -> str:
        http = self.context.settings.http
        return f"http.port {http.port} on {http.host}"

    async def serve(
        self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        http = self.context.settings.http
        await serve_http(self.context.node, http.host, http.port, task_status=task_status)


async def serve_http(
    node: "EdgeNode",
    host: str,
    port: int,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until cancelled; `started` gives the port."""
    pages: dict[bytes, Callable[[], Page]] = {
        b"/metrics": lambda: (200, b"text/plain; version=0.0.4", metrics(node.status())),
        b"/healthz": lambda: health(node.status()),
        b"/status": lambda: (200, b"application/json", msgspec.json.encode(node.status())),
    }
    door = Door("http", CONNECTIONS_MAX, reserved_max=QUESTIONS)

    async def handle(connection: trio.socket.SocketType) -> None:
        async with trio.SocketStream(connection) as stream:
            with trio.move_on_after(REQUEST_S):
                try:
                    await _answer_one(stream, pages)
                except (trio.BrokenResourceError, h11.LocalProtocolError):
                    return  # The peer went away or spoke no HTTP; nobody to tell.

    listeners = await trio.open_tcp_listeners(port, host=host)
    task_status.started(int(listeners[0].socket.getsockname()[1]))
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                listening = stack.enter_context(listener.socket)
                nursery.start_soon(door.serve, listening, handle, nursery)


async def _answer_one(stream: trio.SocketStream, pages: dict[bytes, Callable[[], Page]]) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    left = HEAD_BYTES_MAX
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            # h11 has a limit for heads that are not whole yet, and none for one that is.
            data = await stream.receive_some(left + 1)
            left -= len(data)
            if left < 0:
                raise h11.RemoteProtocolError("a head that is too large", error_status_hint=431)
            connection.receive_data(data)
        if isinstance(event, h11.Request) and len(event.headers) > HEAD_LINES_MAX:
            raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
    except h11.RemoteProtocolError as error:
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await _send(stream, connection, (error.error_status_hint, b"text/plain", b"no HTTP\n"))
        return
    if not isinstance(event, h11.Request):
        return
    page = pages.get(event.target.partition(b"?")[0])
    if page is None:
        known = b", ".join(pages)
        await _send(stream, connection, (404, b"text/plain", b"here are: " + known + b"\n"))
    elif event.method not in (b"GET", b"HEAD"):
        await _send(stream, connection, (405, b"text/plain", b"only GET\n"))
    else:
        await _send(stream, connection, page(), with_body=event.method == b"GET")


async def _send(
    stream: trio.SocketStream, connection: h11.Connection, page: Page, *, with_body: bool = True
) -> None:
    status, content_type, body = page
    headers = [
        (b"Content-Type", content_type),
        (b"Content-Length", str(len(body)).encode()),
        (b"Connection", b"close"),
    ]
    head = connection.send(h11.Response(status_code=status, headers=headers)) or b""
    if with_body and connection.our_state is h11.SEND_BODY:
        head += connection.send(h11.Data(data=body)) or b""
    await stream.send_all(head)


def health(status: Status) -> Page:
    """503 when what is promised cannot be kept; the hub being away is no such thing."""
    problems: list[str] = []
    if status.store.problem:
        problems.append(f"store: {status.store.problem}")
    if status.store.used_bytes > STORE_PRESSED * status.store.limit_bytes:
        problems.append("store full: new readings are refused")
    if status.series_refused:
        problems.append(
            f"series limit: {status.series_refused} readings were left out, raise [series] max "
            f"({status.series_max})"
        )
    is_ok = not problems
    if status.series_max and status.series >= SERIES_ALARM * status.series_max:
        problems.append(
            f"{status.series} of {status.series_max} series: at the limit new ones are left out "
            "and known ones go on, raise [series] max"
        )
    if status.rules is not None and status.rules.problem:
        problems.append(f"rules: {status.rules.problem}")
    problems += [f"{one.level}: {one.text}" for one in status.indicators]
    problems += descriptors.problems()  # worth knowing, and readings are stored all the same
    body = msgspec.json.encode({"ok": is_ok, "problems": problems})
    return (200 if is_ok else 503, b"application/json", body)


def metrics(status: Status) -> bytes:
    """Return the Prometheus text exposition (format 0.0.4)."""
    return "".join(f"{line}\n" for line in _lines(status)).encode()


def _lines(status: Status) -> Iterator[str]:
    edge = f'edge="{_escaped(status.edge)}"'
    single: list[tuple[str, str, str, float]] = [
        ("readings_total", "counter", "Readings stored since the start.", status.readings),
        ("series_refused_total", "counter", "Readings beyond [series] max.", status.series_refused),
        ("events_total", "counter", "Events stored since the start.", status.events),
        ("series", "gauge", "Series known.", status.series),
        ("series_limit", "gauge", "[series] max.", status.series_max),
        ("dead_records", "gauge",
         "Records that the hub refused for good, and messages of devices that the edge did.",
         status.dead),
        ("oldest_pending_seconds", "gauge", "Age of the oldest undelivered record.",
         status.oldest_pending_s or 0.0),
        ("link_up", "gauge", "1 while a session with the hub is granted.",
         float(status.link.epoch > 0)),
        ("link_slowed", "gauge", "1 while the hub takes less than there is.",
         float(bool(status.link.slowed))),
        ("link_reconnects_total", "counter", "Links that ended.", status.link.reconnects),
        ("store_used_bytes", "gauge", "Pages in use.", status.store.used_bytes),
        ("store_limit_bytes", "gauge", "Limit of the store.", status.store.limit_bytes),
        ("store_commits_total", "counter", "Synced transactions.", status.store.commits),
        ("store_quarantined", "gauge", "Damaged records put aside.", status.store.quarantined),
        ("resident_bytes", "gauge", "Resident memory.", status.rss_bytes),
        ("uptime_seconds", "gauge", "Since the start.", status.uptime_s),
    ]  # fmt: skip
    for name, value in (
        ("link_rtt", status.link.rtt_s),
        ("clock_offset", status.link.clock_offset_s),
    ):
        if value is not None:
            single.append((f"{name}_seconds", "gauge", "As measured on the link.", value))
    if status.resource_level in LEVELS:
        level = LEVELS.index(status.resource_level)
        single.append(("resource_level", "gauge", "0 is normal, 3 is critical.", level))
    for name, kind, text, value in single:
        yield from _family(name, kind, text)
        yield f"edgesync_{name}{{{edge}}} {value}"
    for field in ("tail", "sent", "floor", "safe", "pending"):
        yield from _family(f"lane_{field}", "gauge", "Position in records, see the vocabulary.")
        for lane in status.lanes:
            yield f'edgesync_lane_{field}{{{edge},lane="{lane.lane}"}} {getattr(lane, field)}'
    for field, text in (
        ("dropped", "Records a policy took that the hub did not have, ever."),
        ("dropped_readings", "Readings in them."),
        ("refused", "Writes refused since the start because the lane was full."),
    ):
        yield from _family(f"lane_{field}_total", "counter", text)
        for lane in status.lanes:
            yield f'edgesync_lane_{field}_total{{{edge},lane="{lane.lane}"}} {getattr(lane, field)}'
    yield from _family("lane_filled", "gauge", "Part of its capacity, 0 without one.")
    for lane in status.lanes:
        yield f'edgesync_lane_filled{{{edge},lane="{lane.lane}"}} {lane.filled}'
    yield from _ack_lines(edge, status.lanes)
    for door, counts, names in (
        ("mqtt", status.mqtt, MQTT), ("device_http", status.device_http, DEVICE_HTTP),
    ):  # fmt: skip
        for name, kind, text in names if counts is not None else ():
            yield from _family(f"{door}_{name}", kind, text)
            yield f"edgesync_{door}_{name}{{{edge}}} {getattr(counts, name.removesuffix('_total'))}"
    if status.resend is not None:
        yield from _family("resent_readings", "gauge", "Of the newest range that is sent again.")
        yield f"edgesync_resent_readings{{{edge}}} {status.resend.readings}"
        yield from _family("resend_share", "gauge", "How much of it is done, 0 to 1.")
        yield f"edgesync_resend_share{{{edge}}} {status.resend.share}"
    if status.rules is not None:
        yield from _rules_lines(edge, status.rules)
    yield from _family("source_up", "gauge", "1 while the device answers.")
    for source in status.sources:
        up = float(source.state in ("online", "busy"))
        yield f'edgesync_source_up{{{edge},source="{_escaped(source.name)}"}} {up}'
    yield from _family("source_errors_total", "counter", "Requests that brought no data.")
    for source in status.sources:
        name = _escaped(source.name)
        yield f'edgesync_source_errors_total{{{edge},source="{name}"}} {source.errors}'


def _ack_lines(edge: str, lanes: Iterable[LaneStatus]) -> Iterator[str]:
    name = "ack_seconds"
    yield from _family(name, "histogram", "From sending a batch to its being stored at the hub.")
    for lane in lanes:
        labels = f'{edge},lane="{lane.lane}"'
        total = 0
        for bound, count in zip((*BOUNDS_S, "+Inf"), lane.ack_counts, strict=False):
            total += count
            yield f'edgesync_{name}_bucket{{{labels},le="{bound}"}} {total}'
        if lane.ack_counts:
            yield f"edgesync_{name}_sum{{{labels}}} {lane.ack_sum_s}"
            yield f"edgesync_{name}_count{{{labels}}} {total}"


def _rules_lines(edge: str, rules: RulesStatus) -> Iterator[str]:
    """Counts of nodes are those of the nodes that had a failure: a chain has hundreds."""
    for name, text in (
        ("messages", "Messages that came to the root chain."),
        ("unhandled", "Failures of nodes that no connection took."),
    ):
        yield from _family(f"rules_{name}_total", "counter", text)
        yield f"edgesync_rules_{name}_total{{{edge}}} {getattr(rules, name)}"
    yield from _family("rules_good", "gauge", "0 while the files hold chains that do not run.")
    yield f"edgesync_rules_good{{{edge}}} {float(not rules.problem)}"
    yield from _family("rules_failures_total", "counter", "Messages that left a node by Failure.")
    for one in rules.nodes:
        if one.failures:
            names = f'chain="{_escaped(one.chain)}",node="{_escaped(one.node)}"'
            yield f"edgesync_rules_failures_total{{{edge},{names}}} {one.failures}"


def _family(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP edgesync_{name} {text}"
    yield f"# TYPE edgesync_{name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
