"""Enrolment tokens: an edge is invited once, and its first key takes the token up."""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from edgesync_transport.keys import guest_keys, is_key, new_routing_key, new_secret
from hubd.errors import EdgeExists, EnrolRefused
from hubd.owned import Owned, tables
from hubd.registry.edges import expire_tokens, register, revoke_keys, set_prefixes
from hubd.registry.names import DEFAULT_TENANT

# How long the holder of a token that is no longer good is told so, over the link.
GUESTS_TOLD_NS: Final = 86_400 * 10**9
# An expired token leaves the table after some twelve days.
TOKENS_KEPT_NS: Final = 10**15


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a token; the secret is known only here and there."""

    edge: str
    routing_key: str
    secret: str
    expires_ns: int


class Enrolments:
    def __init__(self, owned: Owned, clock_ns: Callable[[], int]) -> None:
        self._owned = owned
        self._clock_ns = clock_ns

    def guests(self) -> dict[str, str]:
        """Return the public key of each token's holder -> the token's routing key.

        Also of tokens that are no longer good: whoever shows one is told why.
        """
        table = tables.enrolment.c
        with self._owned.read() as connection:
            rows = connection.execute(
                sa.select(table.guest, table.routing_key)
                .where(
                    table.guest.is_not(None), table.expires_ns > self._clock_ns() - GUESTS_TOLD_NS
                )
                .order_by(table.expires_ns)
            )
            return {guest: routing_key for guest, routing_key in rows}

    def invite(
        self,
        edge: str,
        *,
        tenant: str = DEFAULT_TENANT,
        site: str = "",
        prefixes: Sequence[str] = (),
        valid_s: float,
        again: bool = False,
    ) -> Invitation:
        """Register `edge` and return a token's parts; `again` lets it come with a new key.

        Nobody is let in before the token is redeemed: a revoked edge stays revoked until then. Of
        several tokens of one edge only the newest is good. Raises EdgeExists when the name is
        taken and `again` is not given, TenantUnknown, EdgeOfAnother when the name is or was
        another tenant's, GrantRefused. Without `site` and `prefixes` those of a known edge stay.
        """
        now = self._clock_ns()
        invitation = Invitation(
            edge=edge,
            routing_key=new_routing_key(),
            secret=new_secret(),
            expires_ns=now + int(valid_s * 1e9),
        )
        edges, enrolment = tables.edge, tables.enrolment
        with self._owned.change() as connection:
            if not register(connection, edge, tenant, now) and not again:
                raise EdgeExists(edge)
            if site:
                connection.execute(edges.update().where(edges.c.name == edge).values(site=site))
            if prefixes:
                set_prefixes(connection, edge, prefixes)
            connection.execute(
                enrolment.delete().where(enrolment.c.expires_ns < now - TOKENS_KEPT_NS)
            )
            expire_tokens(connection, edge, now)
            connection.execute(
                enrolment.insert().values(
                    routing_key=invitation.routing_key,
                    edge=edge,
                    secret_sha256=_digest(invitation.secret),
                    expires_ns=invitation.expires_ns,
                    guest=guest_keys(invitation.secret).public,
                )
            )
        return invitation

    def redeem(self, routing_key: str, secret: str, public: str) -> str:
        """Register `public` for the invited edge and return its name; raises EnrolRefused.

        Asking again with the same key is answered the same: the first answer may have been lost.
        A key that was revoked, or replaced by another one, is never accepted again.
        """
        # Wrong credentials cost a read: whoever guesses must not hold up the registry's writers.
        with self._owned.read() as connection:
            _check_credentials(connection, routing_key, secret)
        return self.redeem_as_guest(routing_key, public)

    def redeem_as_guest(self, routing_key: str, public: str) -> str:
        """Do the same for whoever has proven in another way to hold the token."""
        if not is_key(public):
            raise EnrolRefused("bad_key", "public_key is not 40 characters of Z85")
        with self._owned.change() as connection:
            return _redeem(connection, routing_key, public, self._clock_ns())


def _redeem(connection: sa.Connection, routing_key: str, public: str, now_ns: int) -> str:
    enrolment, key, revoked = tables.enrolment, tables.key, tables.revoked_key
    row = connection.execute(
        enrolment.select().where(enrolment.c.routing_key == routing_key)
    ).one_or_none()
    if row is None:
        raise EnrolRefused("bad_credentials", "this token is not known any more")
    edge = str(row.edge)
    again = f"`hubd enroll {edge} --again`"
    if connection.scalar(sa.select(revoked.c.edge).where(revoked.c.public == public)) is not None:
        raise EnrolRefused("revoked", "this key was revoked; make a new one")
    if row.redeemed_key == public:
        return edge
    if row.redeemed_key is not None:
        raise EnrolRefused("used", f"this token was used already; ask for a new one: {again}")
    if now_ns > row.expires_ns:
        raise EnrolRefused("expired", f"this token has expired; ask for a new one: {again}")
    holder = connection.scalar(sa.select(key.c.edge).where(key.c.public == public))
    if holder not in (None, edge):
        raise EnrolRefused("bad_key", "this key belongs to another edge; make a new one")
    # The new key replaces the old ones: a gateway has one, and a lost one must not stay.
    revoke_keys(connection, edge, now_ns, but=public)
    if holder is None:
        connection.execute(key.insert().values(public=public, edge=edge, added_ns=now_ns))
    edges = tables.edge
    connection.execute(edges.update().where(edges.c.name == edge).values(revoked_ns=None))
    connection.execute(
        enrolment.update().where(enrolment.c.routing_key == routing_key).values(redeemed_key=public)
    )
    return edge


def _check_credentials(connection: sa.Connection, routing_key: str, secret: str) -> None:
    table = tables.enrolment.c
    found = connection.scalar(
        sa.select(table.secret_sha256).where(table.routing_key == routing_key)
    )
    # Compared also for an unknown routing key, so that timing tells nothing.
    expected = _digest("") if found is None else found
    if not hmac.compare_digest(expected, _digest(secret)) or found is None:
        raise EnrolRefused("bad_credentials", "unknown routing key or wrong secret")


def _digest(secret: str) -> str:
    # 128 random bits need no slow hash.
    return hashlib.sha256(secret.encode()).hexdigest()
