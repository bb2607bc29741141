"""The hub that the API's tests ask."""

from tests.hubd.api.conftest import (
    context,
    edge_service,
    logins,
    objects,
    registry,
    rpc,
    rules,
    tunnels,
)

__all__ = ["context", "edge_service", "logins", "objects", "registry", "rpc", "rules", "tunnels"]
