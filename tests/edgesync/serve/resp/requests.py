"""Requests made by chance, of every command on keys."""

from collections.abc import Callable, Iterator
from random import Random

KEYS = [b"k%d" % number for number in range(8)]
FIELDS = [b"f", b"g", b"h", b"i", b"", b"12"]


class Maker:
    """Commands that mostly make sense."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def one(self) -> list[bytes]:
        return self.make(self.random.choice(SHAPES))

    def make(self, shape: str) -> list[bytes]:
        name, *parts = shape.split()
        made = [name.encode()]
        for part in parts:
            made += self.part(part)
        return made

    def part(self, part: str) -> list[bytes]:
        if part.endswith("*"):
            return [x for _ in range(self.random.randint(1, 3)) for x in self.part(part[:-1])]
        if part.endswith("?"):
            return self.part(part[:-1]) if self.random.random() < 0.5 else []
        if "+" in part:
            return [x for one in part.split("+") for x in self.part(one)]
        if "|" in part:
            return self.part(self.random.choice(part.split("|")))
        if part == "Y":
            return self.part(self.random.choice(("get+U+W", "set+U+W+N", "incrby+U+W+N")))
        if part in PARTS:
            return [PARTS[part](self.random)]
        return [part.encode()]


def number(random: Random) -> bytes:
    return b"%d" % random.choice((0, 1, 2, 3, -1, -2, 5, 7, 10, 100, -100, 1 << 40))


def dyadic(random: Random) -> bytes:
    """Numbers that binary and decimal sums agree on."""
    return random.choice((b"0.5", b"1.25", b"-2.75", b"3", b"10", b"-1", b"1e2", b"0"))


def score(random: Random) -> bytes:
    return random.choice(
        (b"1", b"2", b"2.5", b"-3", b"0", b"100", b"1e3", b"inf", b"-inf", b"7.75")
    )


def bound(random: Random) -> bytes:
    return random.choice((b"", b"(")) + score(random)


def text(random: Random) -> bytes:
    return random.choice(
        (b"", b"a", b"hello", b"10", b"-7", b"3.5", b"x" * 100, bytes(range(256)), b"007", b" 5")
    )


HUGE = (10**13, 99999999999999, (1 << 63) - 1, 1 << 62, 9223372036854775, 9223372036854776)

PARTS: dict[str, Callable[[Random], bytes]] = {
    "K": lambda random: random.choice(KEYS),
    "F": lambda random: random.choice(FIELDS),
    "N": number,
    "I": lambda random: b"%d" % random.randint(-4, 5),
    "P": lambda random: b"%d" % random.randint(0, 4),
    "D": dyadic,
    "S": score,
    "B": bound,
    "V": text,
    # No two alike: the two servers read the clock a moment apart.
    # Milliseconds too: none of them passes while the test runs.
    "T": lambda random: b"%d" % random.choice((random.randrange(10**6, 10**7), -5, 0)),
    "G": lambda random: random.choice((b"*", b"k*", b"k?", b"k[1-3]", b"k[^1]", b"x", b"\\k1")),
    "L": lambda random: random.choice((b"-", b"+", b"[", b"(", b"[f", b"(f", b"[h", b"(i", b"[12")),
    "W": lambda random: b"%d" % random.choice((0, 1, 7, 8, 9, 63, 100, 127, 800)),
    "U": lambda random: random.choice((b"u8", b"i8", b"u1", b"i5", b"u63", b"i64", b"i17")),
    "HUGE": lambda random: b"%d" % (random.choice((-1, 1)) * random.choice(HUGE)),
    "BAD": lambda random: random.choice((b"x", b"", b"1.5", b"99999999999999999999", b"nan")),
}
TEXT = """
set K V | set K V | set K V ex T | set K V nx | set K V xx | set K V keepttl | set K V get
set K V px BAD | set K V zz | setnx K V | setex K T V | psetex K T V | get K | get K | getset K V
getdel K | getex K | getex K persist | getex K ex T | mget K* | mset K+V* | msetnx K+V* | append K V
strlen K | getrange K I I | setrange K P V | setrange K I V | incr K | decr K | incrby K N
incrby K BAD | decrby K N | incrbyfloat K D | incrbyfloat K V | del K* | unlink K | exists K*
type K | expire K T | expire K T nx|xx|gt|lt | pexpire K T | ttl K | persist K | rename K K
renamenx K K | copy K K | copy K K replace | keys G | dbsize | touch K* | object encoding
object foo K
hset K F+V* | hset K F | hmset K F+V* | hsetnx K F V | hget K F | hmget K F* | hgetall K | hkeys K
hvals K | hlen K | hexists K F | hstrlen K F | hdel K F* | hincrby K F N | hincrby K F BAD
hincrbyfloat K F D
lpush K V* | rpush K V* | lpushx K V | rpushx K V* | lpop K | rpop K | lpop K P | rpop K P
lpop K BAD | lrange K I I | llen K | lindex K I | lset K I V | lrem K I V | ltrim K I I
rpoplpush K K | lmove K K left|right left|right | lmove K K left up | linsert K before|after V V
linsert K beside V V | lpos K V | lpos K V rank I | lpos K V count P | lpos K V maxlen P
lpos K V rank I count P maxlen P | lpos K V count I | lpos K V maxlen I | lpos K V rank BAD
lpos K V some P | lmpop P K* left|right | lmpop 1 K left|right | lmpop 2 K K left|right count P
lmpop 1 K left count BAD | lmpop BAD K left | lmpop 1 K up | lmpop 1 K left some 1
sadd K F* | srem K F* | smembers K | sismember K F | smismember K F* | scard K | smove K K F
sinter K* | sunion K* | sdiff K* | sinterstore K K* | sunionstore K K* | sdiffstore K K*
zadd K S+F* | zadd K nx|xx|gt|lt S+F* | zadd K ch S+F* | zadd K incr D F | zadd K BAD F
zadd K nx xx S F | zadd K xx ch S+F* | zrem K F* | zscore K F | zmscore K F* | zincrby K D F
zcard K | zcount K B B | zrank K F | zrevrank K F | zrange K I I | zrange K I I withscores
zrange K B B byscore | zrange K B B byscore limit P I | zrange K B B byscore rev withscores
zrange K I I rev | zrevrange K I I withscores | zrangebyscore K B B | zrangebyscore K B B withscores
zrangebyscore K B B limit P P | zrevrangebyscore K B B | zpopmin K | zpopmax K | zpopmin K P
zremrangebyscore K B B | zremrangebyrank K I I | zrange K BAD I
zrange K L L bylex | zrange K L L bylex rev limit P I | zrange K L L bylex withscores
zrange K I I limit P P | zrange K I I limit P I | zrange K B B byscore bylex | zrange K I I rev rev
zrangebylex K L L | zrangebylex K L L limit I I | zrevrangebylex K L L | zlexcount K L L
zremrangebylex K L L | zrangebyscore K B B limit I I withscores | zrangebylex K V V
zrangestore K K I I | zrangestore K K B B byscore | zrangestore K K L L bylex limit P I
zrangestore K K I I withscores | zrangestore K K I BAD
zunion 2 K K | zunion 2 K K withscores | zunion 2 K K weights D D aggregate min|max|sum withscores
zunion I K | zunion 3 K K | zunion 1 K weights BAD | zunion 1 K aggregate V | zunion BAD K
zinter 2 K K withscores | zinter 2 K K weights S D aggregate min|max|sum withscores | zinter 1 K
zdiff 2 K K withscores | zdiff 1 K | zdiff 2 K K weights 1 1 | zdiff 3 K K K
zunionstore K 2 K K | zunionstore K 2 K K weights D D | zunionstore K 1 K withscores
zinterstore K 2 K K | zinterstore K 2 K K aggregate max | zdiffstore K 2 K K | zdiffstore K I K
zintercard 2 K K | zintercard 2 K K limit I | zintercard 1 K | zintercard I K limit
sintercard 2 K K | sintercard 2 K K limit I | sintercard I K | sintercard 3 K | sintercard 1 K some
zmpop 2 K K min|max | zmpop 1 K min count P | zmpop I K max | zmpop 1 K mid | zmpop 1 K max count I
setbit K W P | setbit K W 1 | setbit K BAD 1 | getbit K W | getbit K BAD | bitcount K
bitcount K I I | bitcount K I I bit|byte | bitcount K I | bitcount K I I some | bitcount K W W bit
bitpos K 0|1 | bitpos K 0|1 I | bitpos K 0|1 I I | bitpos K 0|1 I I bit|byte | bitpos K I
bitpos K 0|1 I I some | bitpos K 0|1 W W bit
bitop and|or|xor K K* | bitop not K K | bitop not K K K | bitop nand K K
bitfield K Y | bitfield K Y* | bitfield K overflow wrap|sat|fail Y* | bitfield K overflow some
bitfield K get u64 0 | bitfield K get BAD 0 | bitfield K set u8 BAD 1 | bitfield K get u8
bitfield_ro K get U W | bitfield_ro K Y | bitfield K incrby i64 0 N
lcs K K | lcs K K len | lcs K K idx | lcs K K idx minmatchlen P withmatchlen | lcs K K idx len
lcs K K some
sort K | sort K alpha | sort K desc | sort K alpha desc limit I I | sort K by k* | sort K by nosort
sort K by k*->f get # get k* | sort K alpha by k* desc | sort K store K | sort K alpha store K
sort K by nosort get # store K | sort K limit BAD 1 | sort K some | sort_ro K alpha
sort_ro K store K | sort K get
copy K K db 0 | copy K K db 1000 | copy K K db BAD | copy K K replace db 0 | copy K K db
move K 0 | move K BAD | swapdb 0 0 | swapdb BAD 0 | swapdb 0 BAD | expire K T AB | expire K T nx gt
expire K HUGE | pexpire K HUGE | expireat K HUGE | pexpireat K HUGE | set K V ex HUGE
set K V px HUGE | set K V exat HUGE | getex K pxat HUGE
incrbyfloat K inf | hincrbyfloat K F inf | incrbyfloat K nan | hincrbyfloat K F nan
nosuch K V | get | get K K | hget K | ping | ping V | echo V | select 0 | select BAD
substr K I I | expireat K T | pexpireat K T
scan 0 count 1000 | hscan K 0 | sscan K 0 | zscan K 0
"""
# What is random, unordered, or different on purpose.
APART = """
eval V P K* | eval_ro V P K* | evalsha V P K* | evalsha_ro V P K* | script load V | script exists V
script flush
object refcount K | object freq K | expiretime K
memory usage K | pttl K | pexpiretime K | object encoding K | randomkey
flushdb yes | flushdb | flushall yes
spop K | spop K P | srandmember K | srandmember K I | hrandfield K | hrandfield K I
hrandfield K I withvalues | zrandmember K
zrandmember K I | zrandmember K I withscores | scan 0 count P | scan 0 match G count P type string
hscan K 0 match G count P | sscan K 0 match G count P | zscan K 0 match G count P
"""


def shapes_of(text: str) -> list[str]:
    shapes = text.replace("\n", " | ").split(" | ")
    return [shape.strip() for shape in shapes if shape.strip()]


SHAPES = shapes_of(TEXT)
ALL_SHAPES = SHAPES + shapes_of(APART)


# Nothing, one, the ends of 32 and 64 bits and what is behind them, and what is no number at all.
HOSTILE = [
    b"0", b"1", b"-1", b"-0", b"", b"nan", b"inf", b"1" + b"0" * 30, b"1" * 5000, b"%d" % (1 << 31),
    b"%d" % -(1 << 31), b"%d" % ((1 << 63) - 1), b"%d" % (1 << 63), b"%d" % -(1 << 63),
    b"%d" % (1 - (1 << 63)),
]  # fmt: skip
# A key of each type, and the first letters of commands about it.
FILLED = {
    b"h": [b"hset", b"k2", b"f", b"1", b"g", b"2"], b"lr": [b"rpush", b"k3", b"a", b"b", b"a"],
    b"s": [b"sadd", b"k4", b"f", b"g"], b"z": [b"zadd", b"k5", b"1", b"f", b"2", b"g"],
    b"": [b"set", b"k1", b"10"],
}  # fmt: skip


def hostile_requests(random: Random) -> Iterator[list[bytes]]:
    """Yield every shape of request, on a key of its type and on a string, with each number.

    Between them are the requests that make these keys anew.
    """
    maker = Maker(random)
    for shape in ALL_SHAPES:
        for letters, (_, key, *_) in FILLED.items():
            if letters and shape[:1].encode() not in letters:
                continue
            request = [key if part in KEYS else part for part in maker.make(shape)]
            yield from FILLED.values()
            for place in range(1, len(request)):
                for number in HOSTILE:
                    yield [*request[:place], number, *request[place + 1 :]]
