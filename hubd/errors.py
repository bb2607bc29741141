"""What can go wrong at the hub that its operator can mend; the rest is `edgesync.errors`."""

from edgesync.errors import StoreVersion


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


class EdgeRefused(HubError):
    """Nothing was changed: `field` cannot be what was given."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy


class EdgeOfAnother(HubError):
    """Names of edges belong to one tenant for ever: what they sent is in the log under them."""

    def __init__(self, edge: str, tenant: str) -> None:
        super().__init__(
            f"{edge} is or was an edge of another tenant than {tenant}; choose another name"
        )
        self.edge = edge
        self.tenant = tenant


class TenantUnknown(HubError):
    def __init__(self, tenant: str) -> None:
        super().__init__(f"there is no tenant {tenant}; `hubd tenant add {tenant}` makes it")
        self.tenant = tenant


class TenantRefused(HubError):
    """Nothing was changed; the sentence names the remedy."""


class UserUnknown(HubError):
    def __init__(self, user: str) -> None:
        super().__init__(f"there is no user {user}; `hubd users list` lists them")
        self.user = user


class UserRefused(HubError):
    """Nothing was changed; the sentence says what would be taken."""


class GrantRefused(HubError):
    """Nothing was changed; the sentence says what a grant may be."""


class EnrolRefused(HubError):
    """`code` is a key of `hubd.registry.enrol.STATUS`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class OwnedUnusable(HubError):
    """Owned state cannot be read or written now; nothing was changed."""

    def __init__(self, database: str, problem: str) -> None:
        super().__init__(f"{database}: {problem}")
        self.database = database


class OwnedBusy(OwnedUnusable):
    """Worth a retry."""

    def __init__(self, database: str) -> None:
        super().__init__(database, "is held by another process; try again when that has ended")


class OwnedNewer(OwnedUnusable, StoreVersion):
    """A newer version has migrated it meanwhile: whoever can wait for it, waits."""

    def __init__(self, database: str, *, found: int, known: int) -> None:
        StoreVersion.__init__(self, path=database, found=found, known=known)
        self.database = database


class OwnedReplaced(OwnedUnusable):
    """What is in the place of the registry is not the one this hub has known.

    Nothing was made or changed there. Taken for the registry it would revoke every edge.
    """

    def __init__(self, database: str, problem: str) -> None:
        super().__init__(
            database,
            f"{problem}; put the registry back, or restore it with the hub stopped (`hubd restore "
            "--registry BACKUP`), or, to go on with what is there, remove registry.known from the "
            "hub's data folder and start the hub again",
        )


class HubHeld(HubError):
    """Another hub runs on the same folder or database: two would contradict each other."""

    def __init__(self, place: str, holder: object) -> None:
        by = "another hub" if holder is None else f"another hub: {holder}"
        super().__init__(f"{place} is in use by {by}; stop that one first")
        self.place = place


class RestoreUnfinished(HubError):
    """A restore into this folder was killed: what is there is no hub yet."""

    def __init__(self, draft: str) -> None:
        super().__init__(
            f"{draft} is of a restore that was not finished; run `hubd restore` again, or move it "
            "aside to begin with an empty log"
        )


class StateUnreadable(HubError):
    """The hub works; what is made from its log cannot be shown for now."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the state cannot be read: {problem}; /healthz says what works")


class DatabaseTaken(HubError):
    """Two hubs have one database configured; nothing of it was changed."""

    def __init__(self, database: str, problem: str) -> None:
        super().__init__(f"{database} {problem}; give each hub a database of its own")
        self.database = database


class HubUnreachable(HubError):
    """No answer came, so nobody knows whether what was asked for has happened."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url


class HubRefused(HubError):
    """The hub answered no: `status` is that of HTTP, `field` and `remedy` say what to change."""

    def __init__(self, status: int, error: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(f"{error} ({remedy})" if remedy else error)
        self.status = status
        self.field = field
        self.remedy = remedy
