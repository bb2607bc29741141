"""What a tenant sees of the hub: its edges and keys, and nothing of anybody else's (I12).

Every question is asked of a `Context` that carries whose it is. What belongs to another tenant is
answered as if it did not exist; what is of the hub as a whole (its log, its projectors, what is
wrong with it) is told to its operator alone, for it tells what others send.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final

import msgspec
from starlette.requests import Request

from hubd.api.context import Context, EdgeView, Hub, LinkEvent
from hubd.api.credentials import ValidCredentials
from hubd.api.errors import ApiError
from hubd.cells import Answers
from hubd.link.rates import Slowdowns
from hubd.log.base import LogStats
from hubd.registry import ApiToken

# In the scope of a request: whose token it came with; None is the operator's.
TENANT: Final = "hubd.tenant"
# Of a probe that has no token.
NOBODY: Final = ""


class TenantTokens:
    """The tokens of tenants, as the registry has them now."""

    def __init__(self) -> None:
        self._known: dict[str, ApiToken] = {}
        self._valid = ValidCredentials()

    def set(self, tokens: Iterable[ApiToken]) -> None:
        """Let these in, and no others; what others are being answered ends."""
        self._known = {one.sha256: one for one in tokens}
        self._valid.set(self._known)

    def find(self, token: str) -> ApiToken | None:
        # They are random, so looking their hash up tells nothing by its time.
        return self._known.get(hashlib.sha256(token.encode()).hexdigest()) if token else None

    def has(self, token: ApiToken) -> bool:
        """Return whether the token is still good."""
        return self._valid.has(token.sha256)

    def while_valid(self, token: ApiToken) -> AbstractContextManager[Callable[[], None]]:
        """Cancel the block when the token is withdrawn; see `ValidCredentials.while_valid`."""
        return self._valid.while_valid(token.sha256)


class TenantHub:
    """The present of one tenant's edges; see `hubd.api.context.Hub`."""

    def __init__(self, hub: Hub, tenant: str) -> None:
        self._hub = hub
        self._tenant = tenant

    def names(self, tenant: str | None = None) -> Sequence[str]:
        return self._hub.names(self._tenant) if tenant in (None, self._tenant) else ()

    def edges(self) -> Sequence[EdgeView]:
        return [view for name in self.names() if (view := self.edge(name)) is not None]

    def edge(self, name: str) -> EdgeView | None:
        view = self._hub.edge(name)
        return view if view is not None and view.tenant == self._tenant else None

    def link_events(
        self, *, edge: str | None, before: int | None, limit: int
    ) -> Sequence[LinkEvent]:
        names = set(self.names())
        found: list[LinkEvent] = []
        while page := self._hub.link_events(edge=edge, before=before, limit=limit):
            found += [event for event in page if event.edge in names]
            before = page[-1].n
            if len(found) >= limit or len(page) < limit:
                break
        return found[:limit]

    @property
    def log_head(self) -> int:
        return self._hub.log_head

    def slowed(self) -> Slowdowns:
        everybody, names = self._hub.slowed(), set(self.names())
        return Slowdowns(
            [one for one in everybody.tenants if one.name == self._tenant],
            [one for one in everybody.edges if one.name in names],
            {edge: count for edge, count in everybody.counts.items() if edge in names},
        )

    def cloned(self) -> Sequence[str]:
        names = set(self.names())
        return [edge for edge in self._hub.cloned() if edge in names]

    def log_stats(self) -> LogStats:
        return self._hub.log_stats()


class Contexts:
    """The context of each request.

    everything   the operator's
    answers_of   the keys of a tenant; None when there is no tenant of that name
    """

    def __init__(
        self, everything: Context, answers_of: Callable[[str], Answers | None] | None = None
    ) -> None:
        self._everything = everything
        self._answers_of = answers_of
        self._made: dict[str, Context] = {}

    def of(self, request: Request) -> Context:
        """Return the context of whoever asks, of the tenant that is named; raises ApiError."""
        whose: str | None = request.scope.get(TENANT)
        named = request.query_params.get("tenant")
        if whose is None and named is None:
            return self._everything
        if whose is not None and named not in (None, whose):
            raise _no_such_tenant(named or "")
        if whose == NOBODY:
            return self.of_nobody()
        return self._of(whose or named or "")

    def of_nobody(self) -> Context:
        """Return the context of a probe: it sees no edge, and must be asked for no keys."""
        return _narrowed(self._everything, NOBODY, self._everything.answers)

    def _of(self, tenant: str) -> Context:
        answers = self._answers_of(tenant) if self._answers_of is not None else None
        if answers is None:
            raise _no_such_tenant(tenant)
        made = self._made.get(tenant)
        if made is None or made.answers is not answers:
            made = self._made[tenant] = _narrowed(self._everything, tenant, answers)
        return made


def _narrowed(everything: Context, tenant: str, answers: Answers) -> Context:
    return msgspec.structs.replace(
        everything, tenant=tenant, hub=TenantHub(everything.hub, tenant), answers=answers
    )


def _no_such_tenant(name: str) -> ApiError:
    return ApiError(
        404, f"no tenant {name!r}", field="tenant",
        remedy="leave it out: a token sees what is its tenant's",
    )  # fmt: skip
