"""The bytes of objects over HTTP, in as a body and out as a file; never whole in memory."""

import functools
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, BinaryIO, Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hubd.api import audit
from hubd.api.context import Context
from hubd.api.errors import ApiError
from hubd.api.objects import OneObject, asked, service_of, tenant_of
from hubd.api.rights import Right, check_may

log = logging.getLogger(__name__)

CONTENT: Final = "/api/v1/objects/{object}/content"
BINARY: Final = "application/octet-stream"
# Downloads and uploads at once, each.
PLACES_MAX: Final = 4
CHUNK_BYTES: Final = 64 * 1024


class ObjectBytes:
    def __init__(self) -> None:
        self._downloads, self._uploads = (trio.Semaphore(PLACES_MAX) for _ in range(2))

    async def download(self, context: Context, params: OneObject) -> Response:
        """Answer with an object; raises ApiError for none, and when many are read."""
        store = service_of(context).store
        one = await asked(functools.partial(store.one, tenant_of(context), params.object))
        _acquire(self._downloads)
        try:
            file = await trio.to_thread.run_sync(store.path(one.sha256).open, "rb")
        except BaseException as error:
            self._downloads.release()
            if not isinstance(error, OSError):
                raise  # its session has ended meanwhile, say
            log.error("object %s: %s", one.name, error)
            raise ApiError(
                503, "its contents at the hub are damaged", field="object", remedy="put it again"
            ) from error
        headers = {
            "Content-Length": str(one.size), "ETag": f'"{one.sha256}"', "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="{one.name}"',
        }  # fmt: skip
        return _Download(file, self._downloads, headers)

    async def upload(self, context: Context, params: OneObject, request: Request) -> Response:
        """Keep a body under a name; raises ApiError."""
        check_may(request.scope, Right.WRITE)
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != BINARY:  # what a form of another page cannot send without being asked
            raise ApiError(
                415, f"a body of type {media[:100] or 'unknown'}", field="Content-Type",
                remedy=BINARY,
            )  # fmt: skip
        store, tenant = service_of(context).store, tenant_of(context)
        _acquire(self._uploads)
        try:
            draft = await asked(store.draft)
            try:
                async with aclosing(request.stream()) as chunks:
                    async for chunk in chunks:
                        await asked(functools.partial(draft.write, chunk))
                made = await asked(functools.partial(store.keep, tenant, params.object, draft))
            finally:
                draft.close()
        finally:
            self._uploads.release()
        await audit.note(context, request, CONTENT, made)
        return Response(
            msgspec.json.encode(made), media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip


class _Download(StreamingResponse):
    """Gives its place back when it has been sent, or could not be."""

    def __init__(self, file: BinaryIO, places: trio.Semaphore, headers: dict[str, str]) -> None:
        self._file, self._places = file, places
        self._parts = self._read()
        super().__init__(self._parts, media_type=BINARY, headers=headers)

    async def _read(self) -> AsyncGenerator[bytes]:
        while data := await trio.to_thread.run_sync(self._file.read, CHUNK_BYTES):
            yield data

    async def __call__(self, *args: Any) -> None:
        try:
            async with aclosing(self._parts):
                await super().__call__(*args)
        finally:
            self._file.close()
            self._places.release()


def _acquire(places: trio.Semaphore) -> None:
    try:
        places.acquire_nowait()
    except trio.WouldBlock:
        raise ApiError(
            503, f"{PLACES_MAX} objects are on their way", remedy="try again later"
        ) from None
