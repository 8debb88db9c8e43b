"""A replica's web pages through the door: visitors stay with one replica, streams last, and browsers can log in."""

import asyncio
import base64
import re
import time
from pathlib import Path

from tests.orchestrator.door_inside import PATIENCE, Inside, door, engine, final, until


def get(path: str, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode()


def who(said: bytes) -> tuple[str, str | None]:
    """The replica that answered, and the one that the answer's cookie names."""
    replica = re.search(rb'"replica": "(.)"', said)
    seat = re.search(rb"Set-Cookie: halve_ui=([^;]*); Path=/ui; HttpOnly; SameSite=Lax\r\n", said)
    assert replica is not None, said
    return replica[1].decode(), seat[1].decode() if seat else None


def test_a_visitor_stays_with_his_replica_while_it_is_there(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a, engine("b") as b:
            inside.publish(a, b)
            first = {who(await inside.ask(get("/ui/"))) for _ in range(4)}
            assert first == {("a", "a"), ("b", "b")}  # new visitors are spread, and each is told his seat
            for _ in range(4):
                for path in ("/ui", "/ui/", "/ui?x=1", "/ui/assets/some.js"):
                    assert who(await inside.ask(get(path, "Cookie: x=y; halve_ui=b"))) == ("b", None)
            # his own is gone: the next one takes him, and says so
            inside.publish(a)
            assert who(await inside.ask(get("/ui/", "Cookie: halve_ui=b"))) == ("a", "a")
            # nothing else is sticky
            inside.publish(a, b)
            for path in ("/uix", "/v2/health/ready"):
                assert {who(await inside.ask(get(path, "Cookie: halve_ui=b"))) for _ in range(4)} == {
                    ("a", None),
                    ("b", None),
                }

    asyncio.run(run())


def test_the_path_is_the_same_on_both_sides_and_the_page_knows_its_address(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            said = await inside.ask(get("/ui/gradio_api/file=x%20y.png?a=b"))
            assert b'"path": "/ui/gradio_api/file=x%20y.png?a=b"' in said
            assert b'["X-Forwarded-Host", "x"]' in said and b'["X-Forwarded-Proto", "http"]' in said

    asyncio.run(run())


def test_a_dead_replica_of_a_visitor_is_replaced(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            async with engine("b") as b:
                inside.publish(a, b)
                assert who(await inside.ask(get("/ui/", "Cookie: halve_ui=b"))) == ("b", None)
            assert who(await inside.ask(get("/ui/", "Cookie: halve_ui=b"))) == ("a", "a")

    asyncio.run(run())


def test_events_come_as_they_are_made_and_are_no_work(tmp_path: Path) -> None:
    """A page holds a stream of events open as long as somebody looks at it: a replica can drain all the same."""

    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            reader, writer = await inside.connect()
            begun = time.monotonic()
            writer.write(get("/events?pieces=1000&seconds=0.05"))  # elsewhere it is work
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"data: 0\n\n")
                assert inside.in_flight == {"a": 1}
                writer.close()
                await until(lambda: inside.in_flight == {})
                reader, writer = await inside.connect()
                writer.write(get("/ui/events?pieces=40&seconds=0.05"))
                await reader.readuntil(b"data: 0\n\n")
                assert time.monotonic() - begun < 2.0 + PATIENCE  # long before the last of them
                assert inside.in_flight == {}
                inside.publish()  # withdrawn: what it says still arrives
                await reader.readuntil(b"data: 39\n\n")
                assert b"0\r\n\r\n" in await reader.read()
            writer.close()
            assert inside.in_flight == {}

    asyncio.run(run())


def test_who_would_rather_speak_websocket_is_answered_in_http(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            upgrade = (
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA=="
            )
            said = await inside.ask(
                f"GET /ui/ws HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n".encode(), then_half_close=True
            )
            assert final(said).startswith(b"HTTP/1.1 200 ") and b'"Upgrade"' not in said

    asyncio.run(run())


def test_files_go_up_and_down(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            size = 40 * 2**20  # more than is kept in memory
            head = (
                f"POST /ui/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
            )
            said = await inside.ask(head + bytes(size))
            assert b" 200 " in said[:20] and f'"bytes": {size}'.encode() in said

    asyncio.run(run())


def test_somebody_at_a_page_waits_for_a_replica_and_is_demand(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(starting=True)
            asked = asyncio.create_task(inside.ask(get("/ui/")))
            await until(lambda: inside.front.counts.waiting == 1)
            inside.publish(a)
            assert who(await asked) == ("a", "a")

    asyncio.run(run())


def test_a_browser_logs_in_with_the_token_as_password(tmp_path: Path) -> None:
    async def status(inside: Inside, path: str, authorization: str) -> tuple[bytes, bytes]:
        said = await inside.ask(get(path, *([f"Authorization: {authorization}"] if authorization else [])))
        return said.split(b" ", 2)[1], said

    async def run() -> None:
        basic = base64.b64encode(b"anybody:secret").decode()
        wrong = base64.b64encode(b"secret:wrong").decode()
        async with door(tmp_path, token=b"secret") as inside, engine("a") as a:
            inside.publish(a)
            for given in ("", f"Basic {wrong}", "Basic secret", "Basic !!", "Bearer wrong"):
                code, said = await status(inside, "/ui/", given)
                assert code == b"401" and b'WWW-Authenticate: Basic realm="halve"' in said
                assert b"X-Request-Id: " in said
            for given in (f"Basic {basic}", "Bearer secret"):
                code, said = await status(inside, "/ui/", given)
                assert code == b"200" and b"uthorization" not in said  # the secret stays at the door
            # a page of somebody else's cannot spend it: browsers send it along everywhere, so it opens pages only
            code, said = await status(inside, "/healthz", f"Basic {basic}")
            assert code == b"401" and b"WWW-Authenticate: Bearer" in said

    asyncio.run(run())
