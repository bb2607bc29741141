"""What a POST brings: a bounded body, as JSON or as a form."""

from contextlib import aclosing
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from hubd.api import errors

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
FIELDS_MAX: Final = 16


async def read_json(request: Request, shape: type[msgspec.Struct], limit_bytes: int) -> Any:
    """Return the body as a `shape`, nothing as its defaults; raises ApiError."""
    return decode_json(await _read(request, JSON, limit_bytes), shape)


def decode_json(data: bytes, shape: type[msgspec.Struct]) -> Any:
    try:
        return msgspec.json.decode(data or b"{}", type=shape)
    except msgspec.ValidationError as error:
        raise errors.from_validation(error, errors.descriptions(shape)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.ApiError(400, f"not JSON: {error}", field="body", remedy=JSON) from error


async def read_form(request: Request, shape: type[msgspec.Struct], limit_bytes: int) -> Any:
    """Return what a form sent as a `shape`; raises ApiError."""
    return decode_form(await _read(request, FORM, limit_bytes), shape)


def decode_form(data: bytes, shape: type[msgspec.Struct]) -> Any:
    try:
        pairs = parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
        given = dict(pairs)
        return msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as error:
        raise errors.from_validation(error, errors.descriptions(shape)) from error
    except ValueError as error:
        raise errors.ApiError(400, f"not a form: {error}", field="body", remedy=FORM) from error


async def _read(request: Request, media: str, limit_bytes: int) -> bytes:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit_bytes:
                raise errors.ApiError(
                    413, "a body that is too large", field="body",
                    remedy=f"at most {limit_bytes} bytes",
                )  # fmt: skip
    if body and given != media:
        raise errors.ApiError(
            415, f"a body of type {given[:100] or 'unknown'}", field="Content-Type", remedy=media
        )
    return bytes(body)
