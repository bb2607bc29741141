"""Redis commands as methods with types, for programs: `node.hincrby("store:42", "sold")`."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import cast

from edgesync.cells import Argument, Reply, ending, hash_pairs


class KeyMethods:
    """Methods for the common commands, by way of `command`, which takes all of them."""

    def command(self, name: str, *args: Argument) -> Reply:
        """Carry out a command and return its reply; raises CommandError."""
        raise NotImplementedError

    def get(self, key: Argument) -> bytes | None:
        """Return a string; None when the key is absent."""
        return cast("bytes | None", self.command("GET", key))

    def set(self, key: Argument, value: Argument, *, ttl_s: float | None = None) -> None:
        """Make the key this string, to end after `ttl_s` seconds or to stay."""
        self.command("SET", key, value, *ending(ttl_s))

    def delete(self, *keys: Argument) -> int:
        """Remove keys; returns how many there were."""
        return cast("int", self.command("DEL", *keys))

    def mget(self, *keys: Argument) -> list[bytes | None]:
        """Return strings; None for each key that is absent or none."""
        return cast("list[bytes | None]", self.command("MGET", *keys))

    def exists(self, key: Argument) -> bool:
        """Return whether the key is there."""
        return self.command("EXISTS", key) == 1

    def expire(self, key: Argument, ttl_s: float) -> bool:
        """Let the key end after `ttl_s` seconds, everywhere; False when it is absent."""
        return self.command("PEXPIRE", key, round(ttl_s * 1000)) == 1

    def ttl(self, key: Argument) -> float | None:
        """Return the seconds until the key ends; None when it is absent or stays."""
        left = cast("int", self.command("PTTL", key))
        return None if left < 0 else left / 1000

    def incr(self, key: Argument, amount: int = 1) -> int:
        """Add to a counter; what other edges add meanwhile adds up with it."""
        return cast("int", self.command("INCRBY", key, amount))

    def decr(self, key: Argument, amount: int = 1) -> int:
        """Take from a counter; what other sites add or take meanwhile adds up with it."""
        return cast("int", self.command("DECRBY", key, amount))

    def hset(
        self,
        key: Argument,
        field: Argument | Mapping[Argument, Argument] | None = None,
        value: Argument | None = None,
        *,
        mapping: Mapping[Argument, Argument] | None = None,
    ) -> int:
        """Set one field, or those of a mapping, of a hash; returns how many are new."""
        pairs = hash_pairs(field, value, mapping)
        return cast("int", self.command("HSET", key, *pairs))

    def hget(self, key: Argument, field: Argument) -> bytes | None:
        """Return a field of a hash; None when it is absent."""
        return cast("bytes | None", self.command("HGET", key, field))

    def hdel(self, key: Argument, *fields: Argument) -> int:
        """Remove fields of a hash; returns how many there were."""
        return cast("int", self.command("HDEL", key, *fields))

    def hincrby(self, key: Argument, field: Argument, amount: int = 1) -> int:
        """Add to a counter in a hash; what other sites add meanwhile adds up with it."""
        return cast("int", self.command("HINCRBY", key, field, amount))

    def hgetall(self, key: Argument) -> dict[bytes, bytes]:
        """Return all fields of a hash with their values."""
        return cast("dict[bytes, bytes]", self.command("HGETALL", key))

    def lpush(self, key: Argument, *values: Argument) -> int:
        """Put values before a list, one after the other; returns its length."""
        return cast("int", self.command("LPUSH", key, *values))

    def rpush(self, key: Argument, *values: Argument) -> int:
        """Put values behind a list, one after the other; returns its length."""
        return cast("int", self.command("RPUSH", key, *values))

    def lpop(self, key: Argument) -> bytes | None:
        """Take the first element; another site may take the same one before they have met."""
        return cast("bytes | None", self.command("LPOP", key))

    def rpop(self, key: Argument) -> bytes | None:
        """Take the last element; another site may take the same one before they have met."""
        return cast("bytes | None", self.command("RPOP", key))

    def lrange(self, key: Argument, start: int = 0, stop: int = -1) -> list[bytes]:
        """Return elements of a list from `start` to `stop`, both included; -1 is the last."""
        return cast("list[bytes]", self.command("LRANGE", key, start, stop))

    def sadd(self, key: Argument, *members: Argument) -> int:
        """Add members to a set; returns how many are new."""
        return cast("int", self.command("SADD", key, *members))

    def srem(self, key: Argument, *members: Argument) -> int:
        """Remove members of a set; returns how many there were."""
        return cast("int", self.command("SREM", key, *members))

    def sismember(self, key: Argument, member: Argument) -> bool:
        """Return whether a set has this member."""
        return self.command("SISMEMBER", key, member) == 1

    def smembers(self, key: Argument) -> AbstractSet[bytes]:
        """Return all members of a set."""
        return cast("AbstractSet[bytes]", self.command("SMEMBERS", key))

    def zadd(self, key: Argument, scores: Mapping[Argument, float]) -> int:
        """Set scores of members of a sorted set; returns how many are new."""
        pairs = [part for member, score in scores.items() for part in (score, member)]
        return cast("int", self.command("ZADD", key, *pairs))

    def zincrby(self, key: Argument, member: Argument, amount: float) -> float:
        """Add to a score; what other sites add meanwhile adds up with it."""
        return cast("float", self.command("ZINCRBY", key, amount, member))

    def zscore(self, key: Argument, member: Argument) -> float | None:
        """Return the score of a member; None when it is absent."""
        return cast("float | None", self.command("ZSCORE", key, member))

    def zrem(self, key: Argument, *members: Argument) -> int:
        """Remove members of a sorted set; returns how many there were."""
        return cast("int", self.command("ZREM", key, *members))

    def zrange(self, key: Argument, start: int = 0, stop: int = -1) -> list[bytes]:
        """Return members by their score, the lowest first."""
        return cast("list[bytes]", self.command("ZRANGE", key, start, stop))
