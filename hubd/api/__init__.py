"""The hub's HTTP API and, on the same port, its dashboard (docs/api.md)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubd.api.app import make_app as make_app
    from hubd.api.context import Context as Context
    from hubd.api.settings import ApiSettings as ApiSettings


def __getattr__(name: str) -> object:
    # Programs elsewhere and short commands want a shape or a setting, and no HTTP server.
    if name == "make_app":
        from hubd.api.app import make_app

        return make_app
    if name == "Context":
        from hubd.api.context import Context

        return Context
    if name == "ApiSettings":
        from hubd.api.settings import ApiSettings

        return ApiSettings
    raise AttributeError(name)
