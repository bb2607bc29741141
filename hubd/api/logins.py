"""Logins of users: sessions in memory, by the monotonic clock, and failed attempts.

A hub that starts again knows no session: whoever was in logs in again, and no session comes back
out of a backup. Users are known as the registry had them last, so who has a password gets in while
the registry is away.
"""

import hashlib
import hmac
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Final

import msgspec
import trio

from edgesync.errors import StoreVersion
from edgesync.serve.failed_attempts import FailedAttempts, network_of
from edgesync_transport.seldom import Seldom
from hubd.api.credentials import ValidCredentials
from hubd.api.errors import ApiError
from hubd.errors import OwnedUnusable
from hubd.registry import User
from hubd.registry.audit import Audit
from hubd.registry.passwords import DECOY, is_password
from hubd.registry.users import Users

log = logging.getLogger(__name__)

COOKIE: Final = "hubd_session"
# Of a browser from which somebody has logged in. OWASP, "Slow Down Online Guessing Attacks with
# Device Cookies": what others guess keeps nobody out who comes from there.
BROWSER_COOKIE: Final = "hubd_browser"
BROWSER_S: Final = 365 * 86400.0
SESSION_S: Final = 7 * 86400.0
SESSIONS_MAX: Final = 1000
USER_SESSIONS_MAX: Final = 20
# Wrong passwords within ten minutes: for one name, and from one network with all people in it;
# from a browser that is known, for that name and by itself.
WINDOW_S: Final = 600.0
BROWSER_TRIES: Final = 10
NAME_TRIES: Final = 10
NETWORK_TRIES: Final = 50
# Who wait for theirs to be hashed, one after the other: each takes 32 MiB and a part of a second.
WAITING_MAX: Final = 8


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """`password` is what it was made with, as stored: another one ends the session."""

    sha256: str
    user: str
    password: str
    ends_at: float


class Logins:
    """Users as the registry had them last, and their sessions; all in Trio's thread.

    on_changed   is awaited when a user was changed here
    """

    def __init__(
        self,
        users: Users,
        audit: Audit,
        *,
        on_changed: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.users = users
        self.audit = audit
        self.on_changed = on_changed
        self._clock = clock
        self._users: dict[str, User] = {}
        self._sessions: dict[str, Session] = {}
        self._valid = ValidCredentials()
        self._failed_of_name = FailedAttempts(NAME_TRIES, WINDOW_S, clock)
        self._failed_of_network = FailedAttempts(NETWORK_TRIES, WINDOW_S, clock)
        self._failed_of_browser = FailedAttempts(BROWSER_TRIES, WINDOW_S, clock)
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._seldom = Seldom()

    @property
    def has_users(self) -> bool:
        """Return whether there is any: then nobody gets in without a password or a token."""
        return bool(self._users)

    def set(self, users: Iterable[User]) -> None:
        """Take these for all there are; sessions of others, and of other passwords, end."""
        self._users = {user.name: user for user in users}
        self._end(lambda one: not self._is_valid(one))

    def find(self, token: str) -> tuple[Session, User] | None:
        """Return the session of a cookie, and whose it is; None if it has ended."""
        found = self._sessions.get(_sha256(token)) if token else None
        if found is None or not self._is_valid(found):
            return None
        return found, self._users[found.user]

    def while_valid(self, session: Session) -> AbstractContextManager[Callable[[], None]]:
        """Cancel the block when the session ends; see `ValidCredentials.while_valid`."""
        left_s = session.ends_at - self._clock()
        return self._valid.while_valid(session.sha256, trio.current_time() + left_s)

    async def log_in(self, name: str, password: str, address: str, browser: str = "") -> str:
        """Return a new session's token; raises ApiError, the same for a wrong name and password.

        browser   what `browser_of` gave for an earlier session there
        """
        name = name.strip().lower()
        known = self._users.get(name)
        guesser = browser if known is not None and _is_browser_of(browser, known) else ""
        user = await self._checked(name, password, address, guesser)
        token = secrets.token_urlsafe(32)
        self._begin(
            Session(
                sha256=_sha256(token), user=name, password=user.password,
                ends_at=self._clock() + SESSION_S,
            )
        )  # fmt: skip
        log.info("logged in: user=%s from %s", name, address)
        return token

    def browser_of(self, token: str) -> str:
        """Return what a browser is known by from now on that has this session; "" if it ended."""
        found = self.find(token)
        return _browser_of(found[1], secrets.token_urlsafe(16)) if found else ""

    def log_out(self, token: str) -> None:
        sha256 = _sha256(token)
        self._end(lambda one: one.sha256 == sha256)

    async def change_password(self, token: str, old: str, new: str, address: str) -> None:
        """Change the password of who is logged in; all their other sessions end.

        Raises ApiError, UserRefused, OwnedUnusable.
        """
        found = self.find(token)
        if found is None:
            raise ApiError(401, "nobody is logged in", remedy="log in")
        session, user = found
        await self._checked(user.name, old, address, session.sha256)
        set_password = partial(self.users.set_password, user.name, new)
        changed = await trio.to_thread.run_sync(set_password, limiter=self._one_at_a_time)
        if user.name in self._users:
            self._users[user.name] = changed
            self._end(lambda one: not self._is_valid(one))
            self._begin(msgspec.structs.replace(session, password=changed.password))
        await self.refresh()

    async def check_own(self, name: str, password: str) -> None:
        """Check the password of somebody who is in, before it is changed; raises ApiError."""
        await self._checked(name, password, "", f"who is in as {name}")

    async def refresh(self) -> None:
        """Have what was changed count everywhere, as far as the registry can be looked at."""
        with suppress(OwnedUnusable, StoreVersion):  # it is looked at again soon
            await self.on_changed()

    async def _checked(self, name: str, password: str, address: str, guesser: str = "") -> User:
        """Return the user whose password it is; raises ApiError.

        guesser   a session or browser of this user's, which others' guesses do not concern
        """
        network = network_of(address)
        counts = (
            [(self._failed_of_browser, guesser)]
            if guesser
            else [(self._failed_of_name, name[:100]), (self._failed_of_network, network)]
        )
        wait_s = max(failed.wait_s(key) for failed, key in counts)
        if wait_s > 0:
            raise ApiError(
                429, "too many wrong passwords", field="password",
                remedy=f"wait {wait_s / 60:.0f} min" if wait_s > 90 else f"wait {wait_s:.0f} s",
            )  # fmt: skip
        if self._one_at_a_time.statistics().tasks_waiting >= WAITING_MAX:
            raise ApiError(503, "too many log in at once", remedy="try again in a few seconds")
        user = self._users.get(name)
        stored = DECOY if user is None else user.password
        is_theirs = await trio.to_thread.run_sync(
            is_password, password, stored, limiter=self._one_at_a_time
        )
        now = self._users.get(name)  # they may have changed meanwhile
        if is_theirs and now is not None and now.password == stored:
            counts[0][0].forget(counts[0][1])
            return now
        for failed, key in counts:
            failed.note(key)
        if (again := self._seldom.ask(network)) is not None:
            log.warning("wrong password: from %s; %d more before", network, again)
        raise ApiError(
            401, "no such name and password", field="password",
            remedy="try again; an admin, or `hubd users password`, gives another password",
        )  # fmt: skip

    def _begin(self, session: Session) -> None:
        """Add a session. Beyond the limits the oldest goes: the user's, or the largest tenant's."""
        self._end(lambda one: not self._is_valid(one))
        every = [*self._sessions.values(), session]
        theirs = [one for one in every if one.user == session.user]
        if len(theirs) > USER_SESSIONS_MAX:
            every.remove(theirs[0])
        elif len(every) > SESSIONS_MAX:
            tenants = [self._users[one.user].tenant for one in every]
            ((largest, _),) = Counter(tenants).most_common(1)
            del every[tenants.index(largest)]
        self._sessions = {one.sha256: one for one in every}
        self._valid.set(self._sessions)

    def _is_valid(self, session: Session) -> bool:
        user = self._users.get(session.user)
        is_theirs = user is not None and user.password == session.password
        return is_theirs and self._clock() < session.ends_at

    def _end(self, which: Callable[[Session], bool]) -> None:
        left = [one for one in self._sessions.values() if not which(one)]
        self._sessions = {one.sha256: one for one in left}
        self._valid.set(self._sessions)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _browser_of(user: User, nonce: str) -> str:
    """Return what a browser is known by: nobody can make it without the password as stored.

    So it needs no memory here, outlives the hub, and ends with the password.
    """
    text = f"{BROWSER_COOKIE} {user.name} {nonce}"
    return f"{nonce}.{hmac.new(user.password.encode(), text.encode(), 'sha256').hexdigest()}"


def _is_browser_of(browser: str, user: User) -> bool:
    nonce = browser.partition(".")[0]
    made = _browser_of(user, nonce).encode(errors="replace")
    return hmac.compare_digest(made, browser.encode(errors="replace"))
