"""A limit to how many connections are open, and to how long one may take to say what it asks.

uvicorn closes a connection that pauses after an answer, and none that has not asked yet.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

MOST_HEADER_BYTES = 1 << 16


class Connection(asyncio.Protocol):
    """One connection; uvicorn's own protocol does the rest.

    Args:
        most: how many connections may be open.
        header_s: how long one may take until its request's headers are there.
    """

    def __init__(
        self,
        most: int,
        header_s: float,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.most, self.header_s, self.opened = most, header_s, server_state.connections
        self.loop = _loop or asyncio.get_running_loop()
        self.inner: Any = AutoHTTPProtocol(  # type: ignore[call-arg]
            config=config, server_state=server_state, app_state=app_state, _loop=_loop
        )
        self.timer: asyncio.TimerHandle | None = None
        self.is_refused, self.num_header_bytes = False, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        if len(self.opened) >= self.most:
            self.is_refused = True
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "too many connections; ask again")
            return
        self.inner.connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self.is_refused or self.transport.is_closing():
            return
        self.inner.data_received(data)
        if self._is_answering():
            self._stop_waiting()
            return
        self._wait()
        # what follows an answer may also be the rest of a body that was too large, which is thrown away
        if self.inner.cycle is None or not self.inner.cycle.more_body:
            self.num_header_bytes += len(data)
            if self.num_header_bytes > MOST_HEADER_BYTES:
                too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._refuse(too_large, "too_large", f"headers are longer than {MOST_HEADER_BYTES} bytes")

    def eof_received(self) -> bool | None:
        if self.is_refused:
            return None
        self.inner.eof_received()
        if not self._is_answering() or self.inner.cycle.more_body:
            return None
        self.inner.cycle.keep_alive = False  # nothing can be asked any more
        return True  # else asyncio closes the connection before it is answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if not self.is_refused:
            self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if not self.is_refused:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if not self.is_refused:
            self.inner.resume_writing()

    def _is_answering(self) -> bool:
        """Whether a request's headers were read and its answer is not sent yet; its body has a time-out elsewhere."""
        return self.inner.cycle is not None and not self.inner.cycle.response_complete

    def _wait(self) -> None:
        if self.timer is None:
            self.timer = self.loop.call_later(self.header_s, self._late)

    def _stop_waiting(self) -> None:
        self.num_header_bytes = 0
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _late(self) -> None:
        self.timer = None
        if self._is_answering():
            return
        if not self.num_header_bytes:  # a browser opens connections before it needs them, and takes this for an answer
            self.transport.close()
        else:
            text = f"the headers did not arrive within {self.header_s} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "slow_headers", text)

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        again = "retry-after: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n{again}"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()
