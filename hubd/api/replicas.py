"""Answers about who keeps a copy of the keys, and giving one up."""

from hubd.api.answers import Replicas, ReplicaView, Retired
from hubd.api.context import Context
from hubd.api.errors import ApiError
from hubd.api.keys import storing
from hubd.api.params import EdgesPage, NoBody, OneEdge, make_cursor, read_cursor


async def replicas(context: Context, params: EdgesPage) -> Replicas:
    await context.answers.reach_told()
    cells = context.cells
    (after,) = read_cursor(params.after, tuple[str], ("",))
    found = sorted((name, one) for name, one in cells.replicas().items() if name > after)
    page = found[: params.limit]
    change = cells.space.seq
    return Replicas(
        keyspace=cells.mark.keyspace.hex(),
        change=change,
        stable=cells.stable(),
        collected=cells.mark.collected,
        replicas=[
            ReplicaView(
                edge=name, replica=one.r, incarnation=one.incarnation.hex(), acked=one.acked,
                base=one.base, behind=max(0, change - one.base), seen_ns=one.seen_ms * 1_000_000,
            )
            for name, one in page
        ],
        next=make_cursor(page[-1][0]) if len(found) > len(page) else None,
    )  # fmt: skip


async def retire(context: Context, params: OneEdge, _asked: NoBody) -> Retired:
    """Wait for this edge no longer: should it come back, it takes all keys anew."""
    found = context.cells.replicas().get(params.edge)
    if found is None:
        raise ApiError(
            404, f"{params.edge!r} keeps no copy of the keys", field="edge",
            remedy="GET /api/v1/replicas lists those that do",
        )  # fmt: skip
    with storing():
        await context.answers.give_up(params.edge)
    return Retired(edge=params.edge, replica=found.r)
