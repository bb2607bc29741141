"""What a hub's data folder is made of: names in it, its keys, and the database it may name."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgesync_transport.keys import KeyPair, load_or_create_keys
from hubd.settings import Settings

if TYPE_CHECKING:
    import sqlalchemy as sa

LOG, STATE = "log", "state.db"
KEYS = "hub.keys"
# Where a restored hub lies until it is whole. It is no hub before: edges would hand to an empty log
# what they have, forget it, and the restored one would not have it.
RESTORE_DRAFT: Final = "restore.draft"


def database_url(settings: Settings) -> "sa.URL | None":
    """Return where PostgreSQL is, None for files in the data folder; raises ConfigError."""
    hub = settings.hub
    if not hub.database:
        return None
    from hubd.db.engine import parse_url

    password_file = Path(hub.password_file) if hub.password_file else None
    return parse_url(hub.database, password_file, field="hub.database")


def load_keys(folder: Path) -> KeyPair:
    """Return the hub's keys, made with the folder on the first start."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return load_or_create_keys(folder / KEYS)
