"""Errors as the service answers them: JSON with a code and a message that says what is wanted in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from isthmus.errors import InputError
from isthmus.serving.edge import INTERNAL
from isthmus.serving.event_store import EventsUnavailableError
from isthmus.serving.gate import OverloadedError
from isthmus.serving.requests import UnknownItemError
from isthmus.serving.stored_events import unavailable

MOST_SHOWN = 5
# what pydantic says of each kind of value, as an asker would say it
WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "bool_type": "true or false",
}


class Mistake(BaseModel):
    """What went wrong: a code for programs, a message for people."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """An answer that is none."""

    error: Mistake


def add_errors(app: FastAPI) -> None:
    """Answer whatever a path raises."""

    def error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": {"code": code, "message": message}}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, raised: RequestValidationError) -> JSONResponse:
        return error(422, "invalid", what_is_wrong(raised.errors(), raised.body))

    @app.exception_handler(InputError)
    async def mistaken(_: Request, raised: InputError) -> JSONResponse:
        is_unknown_item = isinstance(raised, UnknownItemError)
        return error(404 if is_unknown_item else 400, "not_found" if is_unknown_item else "bad_request", str(raised))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, raised: HTTPException) -> JSONResponse:
        return error(raised.status_code, "refused", str(raised.detail), dict(raised.headers or {}))

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, __: OverloadedError) -> JSONResponse:
        return error(503, "overloaded", "too many requests wait already; ask again", {"retry-after": "1"})

    @app.exception_handler(TimeoutError)
    async def late(_: Request, __: TimeoutError) -> JSONResponse:
        return error(503, "timed_out", "the answer took too long; ask again", {"retry-after": "1"})

    @app.exception_handler(EventsUnavailableError)
    async def storeless(_: Request, raised: EventsUnavailableError) -> JSONResponse:
        return error(503, *unavailable(raised), {"retry-after": "1"})

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> JSONResponse:
        return error(500, *INTERNAL)


def what_is_wrong(errors: Sequence[Mapping[str, Any]], body: Any) -> str:
    """One text of a request's mistakes: each place, and what is wanted there.

    Where a value may be of several kinds, pydantic names what is wrong with it as each of them, under names of ours:
    these are left out of the place, and the kinds are told together, unless something within the value is wrong.

    Args:
        body: what was sent, as far as it could be read.
    """
    by_place: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for one in errors:
        by_place.setdefault(_place(one, body), []).append(one)
    inner = {place[:length] for place in by_place for length in range(len(place))}
    lines = [
        f"{'.'.join(place) or 'body'}: {_told(of_place)}"
        for place, of_place in by_place.items()
        if place not in inner or any(one["type"] not in WANTED for one in of_place)
    ][:MOST_SHOWN]
    if any(one["type"] == "model_attributes_type" and tuple(one["loc"]) == ("body",) for one in errors):
        lines.append("send an object in JSON, with the header 'Content-Type: application/json'")
    # a name that is no text in UTF-8 must not break the answer that says so
    return "; ".join(lines).encode("utf-8", "replace").decode()


def _place(one: Mapping[str, Any], body: Any) -> tuple[str, ...]:
    """Where a mistake is in what was sent, without the names of the kinds that a value might have been."""
    loc = tuple(one["loc"])
    if loc[:1] != ("body",):  # of the path or the query, which have no parts
        return tuple(str(part) for part in loc if part not in ("query", "path"))
    found, here = [], body
    for number, part in enumerate(loc[1:], start=2):
        is_key = isinstance(here, dict) and part in here
        is_entry = isinstance(here, list) and isinstance(part, int) and part < len(here)
        is_lacking = one["type"] == "missing" and number == len(loc)
        if is_key or is_entry or is_lacking or not isinstance(here, dict | list | str | int | float | bool | None):
            found.append(str(part))
        if is_key or is_entry:
            here = here[part]
    return tuple(found)


def _told(errors: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong in one place."""
    if len(errors) == 1 and errors[0]["type"] not in ("model_type", "model_attributes_type"):
        message = str(errors[0]["msg"])
        return _within(message)
    # kinds that the value is not, unless one of them is what was meant and only not within its bounds
    meant = [str(one["msg"]) for one in errors if one["type"] not in WANTED]
    if meant:
        return "; ".join(dict.fromkeys(map(_within, meant)))
    kinds = list(dict.fromkeys(WANTED[one["type"]] for one in errors))
    return "give " + (", ".join(kinds[:-1]) + " or " if len(kinds) > 1 else "") + kinds[-1]


def _within(message: str) -> str:
    """A sentence as it stands within another; an abbreviation keeps its capitals."""
    return message if message.split(" ", 1)[0].isupper() else message[0].lower() + message[1:]
