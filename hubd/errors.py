"""What can go wrong at the hub that its operator can mend; the rest is `edgesync.errors`."""


class HubError(Exception):
    """Base of the errors below."""


class EdgeExists(HubError):
    def __init__(self, edge: str) -> None:
        super().__init__(
            f"there is an edge {edge} already; "
            "choose another name, or give it a new key with --again"
        )
        self.edge = edge


class EdgeUnknown(HubError):
    def __init__(self, edge: str) -> None:
        super().__init__(f"there is no edge {edge}; `hubd edges` lists them")
        self.edge = edge


class EnrolRefused(HubError):
    """`code` is bad_credentials, expired, used or bad_key."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
