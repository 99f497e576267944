"""The path from a posted recommendation to its answer without a web framework, which costs more than ranking does.

What is asked wrongly, and all other paths, are the framework's: it describes them, checks them and says what is wrong.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from pydantic import ValidationError

from isthmus.errors import InputError
from isthmus.serving.bodies import RecommendBody
from isthmus.serving.edge import REQUEST_ID, App, Receive, Scope, Send, refuse
from isthmus.serving.event_store import EventsUnavailableError
from isthmus.serving.gate import Gate, OverloadedError
from isthmus.serving.stored_events import unavailable
from isthmus.serving.trial import Answered

PATH = "/v1/recommend"
AGAIN = ((b"retry-after", b"1"),)


@dataclass(frozen=True)
class Route:
    """What the log and the metrics call a request by."""

    path: str


class Direct:
    """An ASGI app before another that has the same path.

    Args:
        recommend: the answer to a body and the request's id; runs in the gate's threads.
        observe: hears of each answer once it is sent.
    """

    def __init__(
        self,
        app: App,
        gate: Gate,
        recommend: Callable[[RecommendBody, str], Answered],
        observe: Callable[[Answered], None],
    ) -> None:
        self.app, self.gate, self.recommend, self.observe = app, gate, recommend, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        scope["route"] = Route(PATH)
        if self.gate.is_full:  # before the body is read as JSON: what is turned away must cost little
            await overloaded(send)
            return
        message = await receive()

        async def replay() -> object:
            return message

        if not is_json(scope) or message["type"] != "http.request" or message.get("more_body", False):
            await self.app(scope, replay, send)  # type: ignore[arg-type]
            return
        try:
            body = RecommendBody.model_validate_json(message["body"])
            found, answer = await self.gate.run(lambda: self._answer(body, scope[REQUEST_ID]))
        except OverloadedError:
            await overloaded(send)
        except TimeoutError:
            await refuse(send, 503, "timed_out", "the answer took too long; ask again", AGAIN)
        except EventsUnavailableError as error:
            await refuse(send, 503, *unavailable(error), AGAIN)
        except (ValidationError, InputError):
            await self.app(scope, replay, send)  # type: ignore[arg-type]
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
            asyncio.get_running_loop().call_soon(self.observe, found)  # after the answer has left; see `Edge`

    def _answer(self, body: RecommendBody, request_id: str) -> tuple[Answered, bytes]:
        found = self.recommend(body, request_id)
        return found, orjson.dumps(found.recommendation)


async def overloaded(send: Send) -> None:
    """Turn a request away."""
    message = "too many requests wait already; ask again"
    await refuse(send, 503, "overloaded", message, AGAIN)


def is_json(scope: Scope) -> bool:
    """Whether the body says that it is JSON."""
    given = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    kind: bytes = given.split(b";")[0].strip().lower()
    return kind == b"application/json"
