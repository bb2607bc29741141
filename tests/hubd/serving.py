"""The hub's HTTP side on a real socket."""

from typing import Any

import msgspec
import trio

from hubd.api import ApiSettings, Context, make_app
from hubd.api.server import serve_http


async def serve(context: Context, nursery: trio.Nursery, **changes: Any) -> str:
    """Serve with such settings until the nursery ends; returns the address."""
    settings = ApiSettings(port=0, **changes)
    app = make_app(msgspec.structs.replace(context, settings=settings))
    url: str = await nursery.start(serve_http, app, settings, trio.Event())
    return url
