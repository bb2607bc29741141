"""/metrics for Prometheus, gathered when asked."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hubd.api import keys
from hubd.api.answers import KeysStats, ProjectorStatus
from hubd.api.context import Context, EdgeView
from hubd.api.fleet import projector_status
from hubd.cells.replicas import Replica
from hubd.link.rates import Slowdowns
from hubd.log.base import LogStats
from hubd.log.retention import Standing
from hubd.project.gaps import read_gaps
from hubd.project.limits import SeriesLimits
from hubd.project.resent import Count
from hubd.state import views
from hubd.state.views import Totals

STATES: Final = (
    "connected", "processing", "draining", "stopped", "lost", "disconnected", "invited", "revoked",
)  # fmt: skip


class Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """What /metrics tells; of a hub as a whole only to its operator."""

    edges: list[EdgeView]
    totals: dict[str, Totals]
    keys: dict[str, KeysStats]
    replicas: dict[str, dict[str, Replica]]
    projectors: list[ProjectorStatus] = []
    log_head: int = 0
    log: LogStats | None = None
    retention: Standing = Standing()
    gaps: int = 0
    rebuilds: int = 0
    fresh: int = 0
    slowed: Slowdowns = Slowdowns([], [], {})
    series: SeriesLimits = SeriesLimits()
    tenants: set[str] = set()
    resent: dict[str, Count] = {}


async def gathered(context: Context) -> Gathered:
    edges = list(context.hub.edges())
    totals = await context.state.read(views.totals)
    replicas = {
        tenant: answers.cells.replicas() for tenant, answers in context.seen_answers().items()
    }
    if context.tenant is not None:
        theirs = {view.edge for view in edges}
        return Gathered(
            edges=edges,
            totals={edge: held for edge, held in totals.items() if edge in theirs},
            keys=keys.stats_by_tenant(context),
            replicas=replicas,
            slowed=context.hub.slowed(),
            series=context.projectors.series,
            tenants={context.tenant},
            resent={edge: n for edge, n in context.projectors.resent.items() if edge in theirs},
        )
    return Gathered(
        edges=edges, totals=totals, keys=keys.stats_by_tenant(context), replicas=replicas,
        projectors=projector_status(context), log_head=context.hub.log_head,
        log=context.hub.log_stats(), rebuilds=context.state.rebuilds,
        retention=context.retention(), gaps=len(await context.state.read(read_gaps)),
        fresh=context.state.fresh.readings, slowed=context.hub.slowed(),
        series=context.projectors.series, tenants=set(context.projectors.series.tenants),
        resent=dict(context.projectors.resent),
    )  # fmt: skip


def exposition(found: Gathered, accept: str) -> tuple[bytes, str]:
    """Return (body, content type) in the format the scraper prefers."""
    registry = CollectorRegistry(auto_describe=False)
    metrics = [
        *_edges(found.edges), *_slowed(found.edges, found.slowed), *_held(found.totals),
        *_resent(found.resent), *_series(found.edges, found.series, found.tenants),
        *_keys(found.keys), *_replicas(found.replicas, found.keys),
    ]  # fmt: skip
    if found.log is not None:
        metrics += _projectors(found.projectors, found.log_head)
        metrics += _files(found.log, found.rebuilds, found.fresh, found.gaps)
        metrics += _retention(found.log, found.retention)
    registry.register(_Collected(metrics))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _edges(edges: list[EdgeView]) -> list[Metric]:
    state = GaugeMetricFamily(
        "edgesync_hub_edge_state", "1 for the state an edge is in", labels=["edge", "state"]
    )
    plain = {
        "lag_records": _gauge("edge_lag_records", "Records the edge has and the hub does not"),
        "lag_s": _gauge("edge_lag_seconds", "Age of the oldest of them"),
        "rtt_s": _gauge("edge_rtt_seconds", "Round-trip time of the link"),
        "clock_offset_s": _gauge("edge_clock_offset_seconds", "The edge's clock minus the hub's"),
        "epoch": _gauge("edge_epoch", "Number of the session; grows with every connection"),
    }
    lanes = {
        name: GaugeMetricFamily(f"edgesync_hub_lane_{name}", text, labels=["edge", "lane"])
        for name, text in (("tail", "Highest seq at the edge"), ("floor", "Highest durable seq"))
    }
    for edge in edges:
        for one in STATES:
            state.add_metric([edge.edge, one], float(edge.state == one))
        for name, metric in plain.items():
            value = getattr(edge, name)
            if value is not None:
                metric.add_metric([edge.edge], value)
        for lane in edge.lanes:
            lanes["tail"].add_metric([edge.edge, lane.lane], lane.tail)
            lanes["floor"].add_metric([edge.edge, lane.lane], lane.floor)
    return [state, *plain.values(), *lanes.values()]


def _slowed(edges: list[EdgeView], slowed: Slowdowns) -> list[Metric]:
    edge = _gauge("edge_slowed", "1 while it is told to send less: [limits]")
    tenant = _gauge("tenant_slowed", "1 while its edges are told to send less", "tenant")
    often = CounterMetricFamily(
        "edgesync_hub_edge_slowdowns", "How often it was told to, since the start", labels=["edge"]
    )
    for view in edges:
        edge.add_metric([view.edge], float(bool(view.slowed)))
        often.add_metric([view.edge], slowed.counts.get(view.edge, 0))
    for one in slowed.tenants:
        tenant.add_metric([one.name], 1.0)
    return [edge, tenant, often]


def _series(edges: list[EdgeView], limits: SeriesLimits, tenants: set[str]) -> list[Metric]:
    edge = _gauge("series", "Series it has; at [limits] series new ones wait")
    tenant = _gauge("tenant_series", "Series of all its edges", "tenant")
    for view in edges:
        edge.add_metric([view.edge], limits.edges[view.edge])
    for name in sorted(tenants):
        tenant.add_metric([name], limits.tenants[name])
    return [
        edge,
        tenant,
        GaugeMetricFamily("edgesync_hub_series_limit", "[limits] series", value=limits.edge_max),
        GaugeMetricFamily(
            "edgesync_hub_tenant_series_limit", "[limits] tenant_series", value=limits.tenant_max
        ),
    ]


def _held(totals: Mapping[str, Totals]) -> list[Metric]:
    texts = {
        "readings": "Readings in the state",
        "events": "Events in the state",
        "dead": "Records, and messages of devices, refused for good",
        "lost": "Records that are lost, as edges and links told",
        "refused": "Readings of series beyond [limits] series, in the log only",
    }
    metrics: list[Metric] = []
    for name, text in texts.items():
        metric = CounterMetricFamily(f"edgesync_hub_{name}", text, labels=["edge"])
        for edge, held in totals.items():
            metric.add_metric([edge], getattr(held, name))
        metrics.append(metric)
    return metrics


def _resent(counts: Mapping[str, Count]) -> list[Metric]:
    texts = {
        "readings": ("resent_readings", "Readings sent once more by `resend`, since the start"),
        "known": ("resent_known", "Those of them that were there already"),
    }
    metrics: list[Metric] = []
    for field, (name, text) in texts.items():
        metric = CounterMetricFamily(f"edgesync_hub_{name}", text, labels=["edge"])
        for edge, count in counts.items():
            metric.add_metric([edge], getattr(count, field))
        metrics.append(metric)
    return metrics


def _projectors(projectors: Iterable[ProjectorStatus], log_head: int) -> list[Metric]:
    position = _gauge("projector_position", "Position in the log", "projector")
    lag = _gauge("projector_lag", "Positions of the log still to be projected", "projector")
    failing = _gauge("projector_failing", "1 while the database refuses", "projector")
    skipped = CounterMetricFamily(
        "edgesync_hub_skips", "Entries of the log it could not use", labels=["projector"]
    )
    for one in projectors:
        position.add_metric([one.name], one.position)
        lag.add_metric([one.name], one.lag)
        failing.add_metric([one.name], float(one.health == "failing"))
        skipped.add_metric([one.name], one.skipped)
    head = GaugeMetricFamily("edgesync_hub_log_head", "Newest position of the log", value=log_head)
    return [head, position, lag, failing, skipped]


def _retention(log: LogStats, standing: Standing) -> list[Metric]:
    cursors = _gauge(
        "log_reader_position", "Up to where it has the log stored, when last looked at", "reader"
    )
    for reader, position in standing.cursors.items():
        cursors.add_metric([reader], position)
    held = _gauge("log_held", "1 for what keeps entries that are to go", "by")
    if standing.held_by:
        by = "error" if standing.held_by.startswith("an error") else standing.held_by
        held.add_metric([by], 1.0)
    return [cursors, held]


def _files(log: LogStats, rebuilds: int, fresh: int, gaps: int) -> list[Metric]:
    gauges = {
        "log_used_bytes": ("Bytes of the log in use", log.used_bytes),
        "log_limit_bytes": ("What the log may take: [log] limit", log.limit_bytes),
        "log_damaged": ("Values of the log whose checksum did not fit", log.damaged),
        "log_oldest": ("Oldest position of the log", log.oldest),
        "log_oldest_timestamp_seconds": ("When that was stored", log.oldest_at_ns / 1e9),
        "backup_timestamp_seconds": (
            "When the newest backup was made, 0 for never",
            log.backup.at_ns / 1e9 if log.backup else 0,
        ),
        "state_gaps": ("Parts of the log that the state lacks: it was made again later", gaps),
        "fresh_readings": ("Readings in memory that are in no page yet: [state] memory", fresh),
    }
    return [
        *(
            GaugeMetricFamily(f"edgesync_hub_{name}", text, value=value)
            for name, (text, value) in gauges.items()
        ),
        CounterMetricFamily(
            "edgesync_hub_log_dropped",
            "Entries that were dropped, for nobody needs them",
            value=log.dropped,
        ),
        CounterMetricFamily(
            "edgesync_hub_log_refusals", "Appends that found no room", value=log.refused
        ),
        CounterMetricFamily(
            "edgesync_hub_rebuilds", "How often a damaged state was made again", value=rebuilds
        ),
    ]


def _keys(keys: Mapping[str, KeysStats]) -> list[Metric]:
    gauges = {
        "keys": ("keys", "Keys that edges and hub share"),
        "keys_used_bytes": ("used_bytes", "What their file takes"),
        "keys_change": ("change", "Number of the newest change"),
        "keys_stable": ("stable", "Every edge has confirmed to have all changes up to here"),
        "keys_lag": ("lag", "Positions of the log whose operations are still to be carried out"),
        "conflicts_open": ("conflicts_open", "Conflicts nobody has resolved"),
    }
    counters = {
        "conflicts_detected": ("conflicts_detected", "Conflicts found, ever"),
        "keys_commands": ("commands", "Commands of the hub's own clients"),
        "keys_skipped": ("skipped", "Entries of the log that could not be carried out"),
        "keys_clamped": ("clamped", "Stamps from a clock far ahead, taken as now"),
    }
    metrics: list[Metric] = []
    for kinds, family in ((gauges, GaugeMetricFamily), (counters, CounterMetricFamily)):
        for name, (field, text) in kinds.items():
            metric = family(f"edgesync_hub_{name}", text, labels=["tenant"])
            for tenant, one in keys.items():
                metric.add_metric([tenant], getattr(one, field))
            metrics.append(metric)
    return metrics


def _replicas(
    replicas: Mapping[str, Mapping[str, Replica]], keys: Mapping[str, KeysStats]
) -> list[Metric]:
    base = _gauge("replica_base", "The edge has confirmed to have all changes up to here")
    behind = _gauge("replica_behind", "Changes of keys after that")
    acked = _gauge("replica_acked", "Its operations up to this number are carried out")
    seen = _gauge("replica_seen_timestamp_seconds", "When it last asked, to about a minute")
    known = [
        (edge, one, keys[tenant].change)
        for tenant, theirs in replicas.items()
        for edge, one in theirs.items()
    ]
    for edge, one, change in known:
        base.add_metric([edge], one.base)
        behind.add_metric([edge], max(0, change - one.base))
        acked.add_metric([edge], one.acked)
        seen.add_metric([edge], one.seen_ms / 1000)
    return [base, behind, acked, seen]


def _gauge(name: str, text: str, label: str = "edge") -> GaugeMetricFamily:
    return GaugeMetricFamily(f"edgesync_hub_{name}", text, labels=[label])
