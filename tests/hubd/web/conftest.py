"""The hub that the API's tests ask."""

from tests.hubd.api.conftest import context, rpc

__all__ = ["context", "rpc"]
