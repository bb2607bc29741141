"""Attributes of devices in memory, for what is tested without a store."""

from collections.abc import Collection, Mapping
from typing import Any


class HeldAttributes:
    def __init__(self) -> None:
        self._held: dict[tuple[str, str], dict[str, Any]] = {}

    def put(self, name: str, scope: str, values: Mapping[str, Any]) -> None:
        self._held.setdefault((name, scope), {}).update(values)

    def report(self, name: str, values: Mapping[str, Any]) -> None:
        self.put(name, "client", values)

    def offer(self, name: str, secret: str, until_ms: int) -> None:
        self.put(name, "server", {"claim": (secret, until_ms)})

    def read(self, name: str, scope: str, names: Collection[str] | None = None) -> dict[str, Any]:
        found = self._held.get((name, scope), {})
        return {key: value for key, value in found.items() if names is None or key in names}
