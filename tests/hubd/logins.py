"""Users for tests: their passwords are hashed as ever, at a cost that a test does not notice."""

from collections.abc import Sequence
from typing import Final

import httpx2
import pytest

from hubd.api.logins import COOKIE, Logins
from hubd.registry import Registry, Role, User, passwords

PASSWORD: Final = "correct horse"
# A browser says which page it was; a program would not have the cookie.
FROM_OUR_PAGE: Final = {"Sec-Fetch-Site": "same-origin"}


def logins_of(registry: Registry) -> Logins:
    """Return who may come in, following the registry."""
    logins = Logins(registry.users, registry.audit)

    async def look() -> None:
        logins.set(registry.users.all())

    logins.on_changed = look
    return logins


def make_user(
    registry: Registry,
    logins: Logins,
    name: str,
    role: Role = Role.VIEWER,
    *,
    tenant: str | None = "acme",
    sites: Sequence[str] = (),
) -> User:
    with pytest.MonkeyPatch.context() as cheap:
        cheap.setattr(passwords, "COST", (2, 8, 1))
        user = registry.users.add(name, PASSWORD, role=role, tenant=tenant, sites=sites)
    logins.set(registry.users.all())
    return user


def log_in(client: httpx2.Client, user: User, password: str = PASSWORD) -> str:
    """Log in as a browser does; returns the cookie."""
    form = {"name": user.name, "password": password}
    answer = client.post("/login", data=form, headers=FROM_OUR_PAGE, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    client.headers.update(FROM_OUR_PAGE)
    return answer.cookies[COOKIE]
