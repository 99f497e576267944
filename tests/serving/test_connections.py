"""How many connections may be open, and how long one may take to say what it asks."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import SHUT_WR, create_connection, socket
from time import monotonic, sleep

import httpx2
import pytest
from tests.serving.bundles import new_bundle
from tests.serving.running import serving

from isthmus.data.dataset import Dataset
from isthmus.serving.app import new_app
from isthmus.serving.serve_settings import ServeSettings

BODY = json.dumps({"domain": "shop", "exclude": ["x" * 400] * 500}).encode()  # 200 kB
HEAD = (
    f"POST /v1/recommend HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
).encode()

SMALL = b'POST /v1/recommend HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{"domain":"shop"}'


@pytest.fixture(scope="module")
def server(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """Ten connections, and a second for what is asked."""
    folder = tmp_path_factory.mktemp("connections")
    new_bundle(folder / "bundle", tiny_dataset)
    with serving(folder / "bundle", folder / "log", "--connections", "10", "--timeout", "1") as (client, _):
        yield client


def connect(client: httpx2.Client) -> socket:
    return create_connection((client.base_url.host, client.base_url.port or 0), timeout=10)


def read_all(connection: socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_what_is_beyond_the_connections_is_turned_away_and_there_is_room_again(server: httpx2.Client) -> None:
    with ExitStack() as held:
        opened = [held.enter_context(connect(server)) for _ in range(30)]
        sleep(0.3)
        answers = []
        for connection in opened:
            connection.settimeout(0.05)
            try:
                answers.append(connection.recv(65536))
            except TimeoutError:
                answers.append(b"")
    refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503")]
    assert 20 <= len(refused) <= 21
    assert all(b'"overloaded"' in answer and b"retry-after: 1" in answer for answer in refused)
    sleep(0.3)
    assert server.get("/healthz").status_code == 200


@pytest.mark.parametrize("start", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nhost: a\r\n"])
def test_headers_that_do_not_come_close_the_connection(server: httpx2.Client, start: bytes) -> None:
    began = monotonic()
    with connect(server) as connection:
        connection.sendall(start)
        answer = read_all(connection)
    if start:
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"slow_headers"' in answer
    else:
        assert answer == b""  # nothing was asked, so nothing is answered
    assert 0.5 < monotonic() - began < 5.0


def sent(connection: socket, parts: Iterable[bytes], *, every_s: float = 0.0) -> int:
    """How many of some parts could be sent before the other side closed."""
    number = 0
    for number, part in enumerate(parts):  # noqa: B007
        try:
            connection.sendall(part)
        except OSError:
            break
        sleep(every_s)
    return number


def test_headers_that_trickle_close_the_connection_also_after_an_answer(server: httpx2.Client) -> None:
    began = monotonic()
    with connect(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        letters = (bytes([letter]) for letter in b"GET /healthz HTTP/1.1\r\n" + b"x: yz\r\n" * 10)
        assert sent(connection, letters, every_s=0.1) < 90
    assert 0.5 < monotonic() - began < 8.0


def test_headers_without_end_are_refused_at_once(server: httpx2.Client) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + (b"x: " + b"y" * 1000 + b"\r\n") * 70)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"longer than 65536 bytes" in answer


@pytest.mark.parametrize(("sent", "start"), [(HEAD + BODY, b"HTTP/1.1 200"), (SMALL, b"HTTP/1.1 200"), (HEAD, b"")])
def test_who_says_that_no_more_comes_is_answered_if_all_has_come(
    server: httpx2.Client, sent: bytes, start: bytes
) -> None:
    began = monotonic()
    with connect(server) as connection:
        connection.sendall(sent)
        connection.shutdown(SHUT_WR)
        answer = read_all(connection)
    assert answer[:12] == start
    assert monotonic() - began < 5.0  # and closed then, without a wait for more


def test_a_connection_that_is_asked_in_time_is_kept(server: httpx2.Client) -> None:
    with connect(server) as connection:
        for _ in range(3):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = connection.recv(65536)
            while b"\r\n\r\n{" not in answer:
                answer += connection.recv(65536)
            assert answer.endswith(b'{"status":"ok"}')
            sleep(1.2)  # longer than headers may take: nothing has been begun


def test_bodies_on_their_way_share_a_bound(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_bundle(tmp_path / "bundle", tiny_dataset)
    monkeypatch.setattr("isthmus.serving.edge.MOST_HELD", 500_000)
    app = new_app(ServeSettings(tmp_path / "bundle", max_body_bytes=250_000, timeout_s=20.0))

    async def post(size: int, ends: asyncio.Event) -> int:
        statuses, sent = [], 0

        async def receive() -> dict[str, object]:
            nonlocal sent
            if sent < size:
                part = BODY[sent : min(size, sent + 10_000)]
                sent += len(part)
                return {"type": "http.request", "body": part, "more_body": True}
            await ends.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "raw_path": b"/v1/recommend"}
        scope |= {"headers": [(b"content-type", b"application/json")], "query_string": b"", "root_path": ""}
        await app(scope, receive, send)  # type: ignore[arg-type]
        (status,) = statuses
        assert isinstance(status, int)
        return status

    async def scenario() -> None:
        ends = asyncio.Event()
        large = [asyncio.create_task(post(len(BODY), ends)) for _ in range(8)]
        await asyncio.sleep(0.1)
        small = asyncio.create_task(post(60_000, ends))  # small ones are read all the same, and here are no JSON
        await asyncio.sleep(0.1)
        assert app.num_held_bytes <= 600_000
        ends.set()
        found = sorted([await one for one in large])
        assert set(found) == {200, 503}
        assert 1 <= found.count(200) <= 3
        assert await small == 422
        assert app.num_held_bytes == 0

    asyncio.run(scenario())
