"""What stands around every request: its size, its token, one line in the log and its place in the metrics."""

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from time import perf_counter
from typing import Any
from uuid import uuid4

from isthmus.serving.gate import OverloadedError
from isthmus.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
LOG = logging.getLogger("isthmus.serving")
REQUEST_ID = "isthmus.request"  # where a request's scope has its id
INTERNAL = ("internal", "an error of the service; its log has it")
GUARDED = ("/v1/", "/metrics")
SMALL_BODY, MOST_HELD = 1 << 16, 1 << 26


class Edge:
    """An ASGI app around another.

    Args:
        token: what a request to a guarded path must bear; None: anyone may ask.
        max_body_bytes, timeout_s: how large a body may be, and how long its sender may take.
        bundle: the version that serves now, for the log.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str | None,
        max_body_bytes: int,
        timeout_s: float,
        metrics: Metrics,
        bundle: Callable[[], str],
    ) -> None:
        self.app, self.token, self.metrics, self.bundle = app, token, metrics, bundle
        self.max_body_bytes, self.timeout_s = max_body_bytes, timeout_s
        self.num_held_bytes = 0  # of bodies that are not whole yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, request_id, has_begun = perf_counter(), 500, uuid4().hex[:16], False
        scope[REQUEST_ID] = request_id

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._guarded(scope, receive, answer)
        except Exception:
            # Ours alone: what an asker can get wrong was answered. Above is only the server, which answers in plain
            # text; what fails within the framework was answered by it.
            line = {"method": scope["method"], "path": scope["path"], "request": request_id}
            LOG.exception("request failed", extra={"fields": line})
            if not has_begun:
                await refuse(answer, 500, *INTERNAL)
        finally:
            # The event loop sends what was written when this turn of it ends: nobody need wait for the log.
            asyncio.get_running_loop().call_soon(self._record, scope, status, perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Count and log an answered request."""
        self.metrics.observe(getattr(scope.get("route"), "path", "unknown"), status, seconds)
        line = {"method": scope["method"], "path": scope["path"], "status": status, "request": scope[REQUEST_ID]}
        LOG.info("request", extra={"fields": {**line, "ms": round(1000 * seconds, 3), "bundle": self.bundle()}})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self.token is not None and scope["path"].startswith(GUARDED):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                await refuse(send, 401, "unauthorized", "send the header 'Authorization: Bearer TOKEN'")
                return
        too_large = f"the body is larger than {self.max_body_bytes} bytes; send less at a time"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            await refuse(send, 413, "too_large", too_large)
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._read(receive)
        except TimeoutError:
            await refuse(send, 408, "slow_body", f"the body did not arrive within {self.timeout_s} s")
            return
        except OverloadedError:
            overloaded = "too many bodies are on their way already; ask again"
            await refuse(send, 503, "overloaded", overloaded, ((b"retry-after", b"1"),))
            return
        except ConnectionError:
            return
        if body is None:
            await refuse(send, 413, "too_large", too_large)
            return
        replayed = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is longer than the limit.

        Raises:
            ConnectionError: the sender has left.
            OverloadedError: the bodies that are on their way take too much memory; a small one is always read.
        """
        parts, length = [], 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionError("the sender has left")
                parts.append(message.get("body", b""))
                length += len(parts[-1])
                self.num_held_bytes += len(parts[-1])
                if length > self.max_body_bytes:
                    return None
                if not message.get("more_body", False):
                    return b"".join(parts)
                if length > SMALL_BODY and self.num_held_bytes > max(MOST_HELD, 2 * self.max_body_bytes):
                    raise OverloadedError
        finally:
            self.num_held_bytes -= length


async def refuse(send: Send, status: int, code: str, message: str, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Answer an error as JSON, with more headers where given."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
