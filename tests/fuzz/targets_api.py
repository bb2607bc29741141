"""What clients of the hub's HTTP API send, and what a client is answered."""

import msgspec

from edgesync._native.resp import Pairs
from hubd.api.body import decode_form, decode_json
from hubd.api.errors import ApiError
from hubd.api.keys import is_writing, requests_of
from hubd.api.params import Choice, Commands
from hubd.api.redis_json import plain, reply_of
from hubd.web.pages import ResolveForm
from tests.fuzz.fuzz import Target

REPLIES = [
    None, 5, -1.5, float("inf"), b"text", b"\xff\x00", [b"a", [1, None]], {b"a": b"1", b"\xff": 2},
    {b"base64": b"eA=="}, {b"pairs": [b"x"]}, Pairs([(b"m", 1.0), (b"n", float("-inf"))]),
]  # fmt: skip


def read_commands(data: bytes) -> None:
    asked = decode_json(data, Commands)
    is_writing(asked)
    for request in requests_of(asked):
        assert request
        assert all(isinstance(one, bytes) for one in request)


def read_reply(data: bytes) -> None:
    reply = reply_of(msgspec.json.decode(data))
    again = reply_of(msgspec.json.decode(msgspec.json.encode(plain(reply))))
    assert repr(again) == repr(reply)  # nan, and 1 beside 1.0


TARGETS = [
    Target(
        "commands of the API",
        [
            b'{"command": ["SET", "k", 5, 1.5, {"base64": "/w=="}]}',
            b'{"commands": [["GET", "a"], ["HSET", "\\u00e9", "f", ""]]}',
        ],
        read_commands,
        (ApiError,),
    ),
    Target(
        "a choice of the API",
        [
            b'{"choice": "dot", "replica": 1, "number": 2}',
            b'{"choice": "value", "value": {"base64": "/w=="}}',
        ],
        lambda data: decode_json(data, Choice),
        (ApiError,),
    ),
    Target(
        "a form of the dashboard",
        [b"choice=value&value=%C3%A9+x", b"choice=dot&replica=1&number=2"],
        lambda data: decode_form(data, ResolveForm).choice_made(),
        (ApiError,),
    ),
    Target(
        "replies of the API",
        [msgspec.json.encode(plain(one)) for one in REPLIES],
        read_reply,
        (ValueError,),
    ),
]
