"""The identity of a client, by its credentials: token, name and password, certificate, or none."""

import math
import time
from collections.abc import Callable
from typing import Final

from edgesync.serve.devices.certificates import digest_of
from edgesync.serve.devices.credentials import CredentialsFile, shown_by
from edgesync.serve.devices.guesses import Guesses
from edgesync.serve.devices.thingsboard import Device, Refused
from edgesync.serve.mqtt.client import Client
from edgesync.serve.mqtt.packets import Connect, Reason

TOO_MANY_GUESSES: Final = "too many wrong credentials from this address"
NANOS_A_S: Final = 1_000_000_000


class Identities:
    """Those of a file, which is read again when it changes: then `changed` is called."""

    def __init__(
        self,
        credentials: CredentialsFile,
        guesses_max: int,
        changed: Callable[[], None],
        *,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._credentials = credentials
        self._known = credentials.current
        self._changed = changed
        self._wall_ns = wall_ns
        self.guesses = Guesses(guesses_max, "credentials")

    def refresh(self) -> bool:
        """Read the file again if need be; returns whether somebody may be known or forgotten."""
        self._credentials.refresh()
        return self._note_change()

    async def follow(self) -> bool:
        """Do as `refresh` does, and read in a thread."""
        await self._credentials.follow()
        return self._note_change()

    def _note_change(self) -> bool:
        """Tell if others are known than before, also where somebody else has read the file."""
        if self._credentials.current is self._known:
            return False
        self._known = self._credentials.current
        self._changed()
        return True

    def identify(self, client: Client, connect: Connect) -> Device:
        """Return whose credentials a client shows, also new ones; raises Refused."""
        if client.certificate is not None:  # which nobody guesses
            return self._look_up(client, connect)
        host, shown = client.host, shown_by(connect)
        if (wait_s := self.guesses.wait_s(host, shown)) > 0:
            raise Refused(
                Reason.QUOTA_EXCEEDED, f"{TOO_MANY_GUESSES}; again in {math.ceil(wait_s)} s"
            )
        try:
            device = self._look_up(client, connect)
        except Refused:
            self.guesses.wrong(host, shown)
            raise
        if not (device.is_anonymous or device.is_provisioning):
            self.guesses.right(host, shown)
        return device

    def _look_up(self, client: Client, connect: Connect) -> Device:
        shown = client.certificate
        digest = digest_of(shown) if shown is not None else None
        try:
            device = self._credentials.current.identify(connect, digest)
        except Refused:
            if not self.refresh():
                raise
            device = self._credentials.current.identify(connect, digest)
        if shown is not None and (problem := client.validity_problem(self._wall_ns() / NANOS_A_S)):
            raise Refused(Reason.NOT_AUTHORIZED, problem)
        return device
