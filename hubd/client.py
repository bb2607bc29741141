"""HubClient: the hub's keys for programs in the cloud, over its HTTP API.

    async with HubClient("https://hub.example", token="esapi.…") as hub:
        await hub.incr("orders")
        for conflict in await hub.conflicts():
            await hub.resolve(conflict.id)

Under Trio and under asyncio. What a call has changed is on the hub's disk when it returns (I1);
after HubUnreachable nobody knows, so look before you say again what would count twice.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import quote

import httpx2
import msgspec

from edgesync.cells import Argument, Reply, as_bytes, ending, hash_pairs
from edgesync.errors import CommandError
from hubd.api.answers import (
    CommandAnswer,
    Conflicts,
    ConflictSide,
    ConflictView,
    KeyChanges,
    Replicas,
    ReplicaView,
    Retired,
)
from hubd.api.answers import Keys as KeysAnswer
from hubd.api.errors import Problem
from hubd.api.redis_json import argument, blob, reply_of
from hubd.edge_client import EdgeMethods
from hubd.entity_client import EntityMethods
from hubd.errors import HubRefused, HubUnreachable

T = TypeVar("T")
TIMEOUT_S: Final = 30.0
PAGE: Final = 500
# Less than the time-out of a call, or of a proxy between.
CHANGES_WAIT_S: Final = 20.0


class HubClient(EdgeMethods, EntityMethods):
    """See the module.

    token       one of those whose SHA-256 is in the hub's `api.write_token_sha256`, or, to read
                only, in `api.token_sha256`; or a tenant's; none for a hub without.
                Raises ValueError for what is none
    tenant      whose keys, with a token of the hub's settings; a tenant's token needs no name
    timeout_s   for each call

    Every call raises HubUnreachable or HubRefused, and CommandError where Redis would reply with an
    error. Replies are as a Redis client of bytes knows them; sets come as lists, in order.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        tenant: str = "",
        timeout_s: float = TIMEOUT_S,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if not token.isascii():
            raise ValueError("token: it has letters of ASCII only, as `hubd token` prints it")
        self._url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.AsyncClient(
            headers=headers, timeout=timeout_s, transport=transport,
            params={"tenant": tenant} if tenant else None,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    # -- keys --------------------------------------------------------------------------------

    async def command(self, name: str, *args: Argument) -> Reply:
        """Carry out a Redis command, such as `command("HSET", "h", "f", 1)`."""
        answer = await self._command({"command": _request(name, *args)})
        return self._reply(answer.reply)

    async def commands(self, *requests: Sequence[Argument]) -> list[Reply | CommandError]:
        """Carry out several with nothing between them and one commit; returns their replies.

        One that is refused has its CommandError among them, and the others are carried out.
        """
        asked = [_request(*request) for request in requests]
        answer = await self._command({"commands": asked})
        return [
            CommandError(one.error.error)
            if isinstance(one.error, Problem)
            else self._reply(one.reply)
            for one in answer.replies or ()
        ]

    async def get(self, key: Argument) -> bytes | None:
        """Return a string; None when the key is absent."""
        return cast("bytes | None", await self.command("GET", key))

    async def set(self, key: Argument, value: Argument, *, ttl_s: float | None = None) -> None:
        """Make the key this string, to end after `ttl_s` seconds or to stay."""
        await self.command("SET", key, value, *ending(ttl_s))

    async def delete(self, *keys: Argument) -> int:
        """Remove keys; returns how many there were."""
        return cast("int", await self.command("DEL", *keys))

    async def incr(self, key: Argument, amount: int = 1) -> int:
        """Add to a counter; what edges add meanwhile adds up with it."""
        return cast("int", await self.command("INCRBY", key, amount))

    async def decr(self, key: Argument, amount: int = 1) -> int:
        """Take from a counter; what other sites add or take meanwhile adds up with it."""
        return cast("int", await self.command("DECRBY", key, amount))

    async def hset(
        self,
        key: Argument,
        field: Argument | Mapping[Argument, Argument] | None = None,
        value: Argument | None = None,
        *,
        mapping: Mapping[Argument, Argument] | None = None,
    ) -> int:
        """Set one field, or those of a mapping, of a hash; returns how many are new."""
        pairs = hash_pairs(field, value, mapping)
        return cast("int", await self.command("HSET", key, *pairs))

    async def hget(self, key: Argument, field: Argument) -> bytes | None:
        """Return a field of a hash; None when it is absent."""
        return cast("bytes | None", await self.command("HGET", key, field))

    async def hincrby(self, key: Argument, field: Argument, amount: int = 1) -> int:
        """Add to a counter in a hash; what other sites add meanwhile adds up with it."""
        return cast("int", await self.command("HINCRBY", key, field, amount))

    async def hgetall(self, key: Argument) -> dict[bytes, bytes]:
        """Return all fields of a hash with their values."""
        return cast("dict[bytes, bytes]", await self.command("HGETALL", key))

    async def lpush(self, key: Argument, *values: Argument) -> int:
        """Put values before a list, one after the other; returns its length."""
        return cast("int", await self.command("LPUSH", key, *values))

    async def rpush(self, key: Argument, *values: Argument) -> int:
        """Put values behind a list, one after the other; returns its length."""
        return cast("int", await self.command("RPUSH", key, *values))

    async def lrange(self, key: Argument, start: int = 0, stop: int = -1) -> list[bytes]:
        """Return elements of a list from `start` to `stop`, both included; -1 is the last."""
        return cast("list[bytes]", await self.command("LRANGE", key, start, stop))

    async def sadd(self, key: Argument, *members: Argument) -> int:
        """Add members to a set; returns how many are new."""
        return cast("int", await self.command("SADD", key, *members))

    async def smembers(self, key: Argument) -> frozenset[bytes]:
        """Return all members of a set."""
        return frozenset(cast("list[bytes]", await self.command("SMEMBERS", key)))

    async def scan(self, prefix: str = "") -> AsyncIterator[bytes]:
        """Yield the names of keys, in order of their bytes."""
        after: str | None = ""
        while after is not None:
            page = await self._get("keys", KeysAnswer, prefix=prefix, after=after)
            for row in page.keys:
                yield argument(row.key)
            after = page.next

    async def changes(
        self, prefix: str = "", after: str | None = None
    ) -> AsyncGenerator[tuple[bytes, str | None, str]]:
        """Yield keys as they change, for ever: the key, its type (None: it is gone), and a place.

        after   the place of the last one that was dealt with, to go on behind it; without one
                from now on. HubRefused with status 410 means that the hub's keys are others now

        To stop earlier than the program does, use contextlib.aclosing around it.
        """
        if after is None:
            after = (await self._get("keys/changes", KeyChanges, prefix=prefix)).next
        while True:
            page = await self._get(
                "keys/changes", KeyChanges, prefix=prefix, after=after, wait_s=str(CHANGES_WAIT_S)
            )
            for one in page.changes:
                yield argument(one.key), one.type, one.after
            after = page.next

    # -- conflicts and replicas --------------------------------------------------------------

    async def conflicts(self, status: str = "open", prefix: str = "") -> list[ConflictView]:
        """Return conflicts, the oldest first; `status` may be empty for all."""
        found: list[ConflictView] = []
        after: str | None = ""
        while after is not None:
            page = await self._get(
                "conflicts", Conflicts, status=status, prefix=prefix, after=after
            )
            found += page.conflicts
            after = page.next
        return found

    async def resolve(
        self, number: int, *, side: ConflictSide | None = None, value: Argument | None = None
    ) -> ConflictView:
        """Write to the cell of a conflict its winner, or that side of it, or that value."""
        if side is not None and value is not None:
            raise ValueError("a side or a value, not both")
        body: dict[str, Any] = {"choice": "winner"}
        if side is not None:
            body = {"choice": "dot", "replica": side.replica, "number": side.number}
        elif value is not None:
            body = {"choice": "value", "value": blob(as_bytes(value))}
        return await self._post(f"conflicts/{number}/resolve", body, ConflictView)

    async def replicas(self) -> list[ReplicaView]:
        """Return the edges that keep a copy of the keys, by name."""
        found: list[ReplicaView] = []
        after: str | None = ""
        while after is not None:
            page = await self._get("replicas", Replicas, after=after)
            found += page.replicas
            after = page.next
        return found

    async def retire(self, edge: str) -> None:
        """Wait no longer for this edge; should it come back, it takes all keys anew."""
        await self._post(f"replicas/{quote(edge, safe='')}/retire", {}, Retired)

    # -- HTTP --------------------------------------------------------------------------------

    async def _command(self, body: dict[str, Any]) -> CommandAnswer:
        return await self._post("keys/command", body, CommandAnswer)

    def _reply(self, value: Any) -> Reply:
        try:
            return reply_of(None if value is msgspec.UNSET else value)
        except ValueError as error:
            raise HubUnreachable(self._url, f"that is no hub: {error}") from error

    async def _get(self, path: str, shape: type[T], **query: str) -> T:
        given = {name: value for name, value in ({"limit": str(PAGE)} | query).items() if value}
        return await self._ask("GET", path, shape, params=given)

    async def _post(self, path: str, body: dict[str, Any], shape: type[T]) -> T:
        headers = {"Content-Type": "application/json"}
        content = msgspec.json.encode(body)
        return await self._ask("POST", path, shape, content=content, headers=headers)

    async def _ask(self, method: str, path: str, shape: type[T], **how: Any) -> T:
        url = f"{self._url}/api/v1/{path}"
        try:
            answer = await self._http.request(method, url, **how)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise HubUnreachable(self._url, str(error) or type(error).__name__) from error
        if answer.status_code != 200:
            raise _refusal(answer)
        try:
            return msgspec.json.decode(answer.content, type=shape)
        except msgspec.DecodeError as error:
            raise HubUnreachable(self._url, f"that is no hub: {error}") from error


def _request(*parts: Argument) -> list[Any]:
    return [blob(as_bytes(part)) for part in parts]


def _refusal(answer: httpx2.Response) -> CommandError | HubRefused:
    try:
        problem = msgspec.json.decode(answer.content, type=Problem)
    except msgspec.DecodeError:
        problem = Problem(error=f"HTTP status {answer.status_code}")
    if problem.code:
        return CommandError(problem.error)
    return HubRefused(answer.status_code, problem.error, field=problem.field, remedy=problem.remedy)
