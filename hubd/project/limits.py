"""How many series each edge and each tenant has, and may have.                         [sans-IO]

Known series go on whatever happens; only new ones wait for room, and at nine tenths of a limit the
hub says so.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

SERIES_MAX: Final = 10_000
TENANT_SERIES_MAX: Final = 500_000
ALARM_SHARE: Final = 0.9


class Crowd(msgspec.Struct, frozen=True):
    """An edge or a tenant that is near its limit; `setting` is its name under [limits]."""

    kind: str
    name: str
    series: int
    limit: int
    setting: str


class SeriesLimits:
    """See the module.

    tenant_of   whose an edge is
    edges, tenants   how many series each has
    """

    def __init__(
        self,
        edge_max: int = SERIES_MAX,
        tenant_max: int = TENANT_SERIES_MAX,
        *,
        tenant_of: Callable[[str], str] = lambda _edge: "",
    ) -> None:
        self.edge_max = edge_max
        self.tenant_max = tenant_max
        self.edges: Counter[str] = Counter()
        self.tenants: Counter[str] = Counter()
        self._tenant_of = tenant_of
        self._counted_as: dict[str, str] = {}

    def load(self, counts: Mapping[str, int]) -> None:
        """Begin anew with what the state holds of each edge."""
        self.edges, self.tenants, self._counted_as = Counter(), Counter(), {}
        for edge, count in counts.items():
            self.add(edge, count)

    def add(self, edge: str, count: int) -> None:
        """Take in that an edge has more series."""
        self.edges[edge] += count
        self.tenants[self._tenant(edge)] += count

    def room(self, edge: str, own: int, entering: Mapping[str, int]) -> int:
        """Return how many more series an edge of `own` may have, beside those just entered."""
        tenant = self._tenant(edge)
        theirs = sum(count for other, count in entering.items() if self._tenant_of(other) == tenant)
        left = self.edge_max - own - entering.get(edge, 0)
        return max(0, min(left, self.tenant_max - self.tenants[tenant] - theirs))

    def _tenant(self, edge: str) -> str:
        """Return whose an edge is; its registration may have come after its series."""
        tenant = self._tenant_of(edge)
        before = self._counted_as.setdefault(edge, tenant)
        if before != tenant:
            self.tenants[before] -= self.edges[edge]
            self.tenants[tenant] += self.edges[edge]
            self._counted_as[edge] = tenant
        return tenant

    def crowds(self) -> Iterator[Crowd]:
        """Yield whoever has nine tenths of what it may have, by name."""
        for name, count in sorted(self.tenants.copy().items()):
            if count >= ALARM_SHARE * self.tenant_max:
                yield Crowd("tenant", name, count, self.tenant_max, "tenant_series")
        for name, count in sorted(self.edges.copy().items()):
            if count >= ALARM_SHARE * self.edge_max:
                yield Crowd("edge", name, count, self.edge_max, "series")
