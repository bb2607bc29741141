"""Tokens that the hub gives to devices, kept with those of devices that were provisioned.

The hub says a token's hash alone. The operator's own file counts before: a device that it names is
what it says there.
"""

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgesync.errors import RecordError
from edgesync.serve.devices.credentials import (
    PROVISIONED_FILE,
    PROVISIONED_MAX,
    DeviceSettings,
    read_devices,
)
from edgesync.serve.devices.provisioning import as_toml
from edgesync.store.directory import replace_file
from edgesync.toml import FILE_BYTES_MAX

# Who a device was provisioned by, that the hub gave its token.
HUB: Final = "the hub"


def set_tokens(folder: Path, tokens: Mapping[str, str]) -> None:
    """Let each device in with the token of its hash, and with no other of the hub's; "" for none.

    On disk when this returns, all of them or none. Raises OSError, also while somebody else writes
    the file, ConfigError for a file that cannot be read, and RecordError when it would name more
    than there may be.
    """
    path = folder / PROVISIONED_FILE
    with open(path.with_suffix(".lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = read_devices(path).device if path.exists() else ()
        theirs = {one.name: one for one in found if one.provisioned_by == HUB}
        for device, token_sha256 in tokens.items():
            theirs[device] = DeviceSettings(
                name=device, token_sha256=token_sha256, provisioned_by=HUB
            )
        kept = [one for one in found if one.provisioned_by != HUB]
        kept += [one for one in theirs.values() if one.token_sha256]
        if set(kept) == set(found):
            return
        raw = as_toml(kept)
        if len(kept) > max(PROVISIONED_MAX, len(found)) or len(raw) > FILE_BYTES_MAX:
            raise RecordError(f"{len(found)} devices were provisioned, no more may be")
        replace_file(path, raw)
