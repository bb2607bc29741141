"""Owned state: what people decided, which no log can make again.

Tenants, edges, their keys, tokens. Its tables are migrated in place, backed up and never dropped;
what is made from the log is derived state and lives in `hubd.state`.
"""

from hubd.owned.database import Owned, open_owned

__all__ = ["Owned", "open_owned"]
