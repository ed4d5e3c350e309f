"Bounds on requests, each on its own: bodies, names, addresses, errors, sessions."

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from mvl_bench.apps.web import bounds
from mvl_bench.apps.web.bounds import (
    API,
    MOST_UNREAD,
    OPEN_ROUTES,
    Bodies,
    Headers,
    HostCheck,
    Sessions,
    ShortErrors,
    SubPath,
    is_loopback,
)
from mvl_bench.apps.web.jobs import STREAMS


def run(work):
    "Run a coroutine in a thread of its own: the browser of other tests has an event loop in this one."
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def echo(scope, receive, send):
    "Answer with the path and the body."
    body = (await receive())["body"] if scope["method"] == "POST" else b""
    await send(dict(type="http.response.start", status=200, headers=[]))
    await send(dict(type="http.response.body", body=scope["path"].encode() + b" " + body))


def ask(app, *parts, method="POST", path="/", wait=0.0, **headers):
    "Send a request whose body arrives in parts; return its status, headers and answer."
    told, scope = [], dict(type="http", method=method, path=path, query_string=b"")
    scope["headers"] = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
    left = list(parts)

    async def receive():
        await asyncio.sleep(wait)
        if not left:
            return dict(type="http.disconnect")
        return dict(type="http.request", body=left.pop(0), more_body=bool(left))

    async def send(message):
        told.append(message)

    run(app(scope, receive, send))
    if not told:
        return None, {}, b""
    return told[0]["status"], dict(told[0]["headers"]), b"".join(m["body"] for m in told[1:])


def test_a_body_arrives_whole():
    app = Bodies(echo, limit=10)
    assert ask(app, b"ab", b"cd", content_length="4")[2] == b"/ abcd"
    assert ask(app, b"ab", b"cd", transfer_encoding="chunked")[2] == b"/ abcd"
    assert app.held == 0


@pytest.mark.parametrize("size", ["11", "-1", "x", "9" * 12])
def test_a_declared_size_is_checked_before_the_body_is_read(size):
    assert ask(Bodies(echo, limit=10), content_length=size)[0] == 413


def test_a_chunked_body_is_counted():
    app = Bodies(echo, limit=10)
    assert ask(app, *[b"abcd"] * 3, transfer_encoding="chunked")[0] == 413 and app.held == 0


def test_many_large_bodies_at_once_are_refused():
    app = Bodies(echo, limit=10, held=12)
    app.held = 8
    assert ask(app, b"abcdef", content_length="6")[0] == 503 and app.held == 8


def test_a_slow_body_is_cut():
    app, begun = Bodies(echo, seconds=0.2), time.monotonic()
    status, headers, _ = ask(app, *[b" "] * 100, wait=0.05, content_length="100")
    assert status == 408 and headers[b"connection"] == b"close" and app.held == 0
    assert time.monotonic() - begun < 2


def test_a_client_that_leaves_is_not_answered():
    async def receive():
        return dict(type="http.disconnect")

    told = []
    scope = dict(type="http", method="POST", path="/", headers=[(b"content-length", b"4")])
    run(Bodies(echo)(scope, receive, told.append))
    assert told == []


def test_only_own_names_are_answered():
    app = HostCheck(echo, host="127.0.0.1")
    for host in ("127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "127.8.8.8"):
        assert ask(app, method="GET", host=host)[0] == 200, host
    names = ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "0.0.0.0", "[::", "x@y")
    for host in names:
        status, _, text = ask(app, method="GET", host=host)
        assert status == 403 and b"--root-path" in text, host


def test_another_site_cannot_post():
    app = HostCheck(echo)
    assert ask(app, b"", host="localhost", origin="http://127.0.0.1:7860")[0] == 200
    for origin in ("http://evil.example", "null", "file://"):
        assert ask(app, b"", host="localhost", origin=origin)[0] == 403, origin


def test_what_is_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.2", "example.org", "")))


@pytest.mark.parametrize("path", ["/bench/", "/bench", "/bench/config", "/config"])
def test_a_path_is_stripped_once(path):
    told = ask(SubPath(echo, "/bench"), method="GET", path=path)[2]
    assert told == (b"/config " if path.endswith("config") else b"/ ")
    other = ask(SubPath(echo, "/bench"), method="GET", path="/benches")[2]
    assert other == b"/benches "


def test_open_routes():
    names = ("upload", "component_server", "stream/a", "process_recording", "vibe-edit", "run/board")
    assert not any(OPEN_ROUTES["POST"].fullmatch(f"{API}/{name}") for name in names)
    names = ("file=a", "proxy=a", "upload_progress", "dev/reload", "token", "deep_link")
    assert not any(OPEN_ROUTES["GET"].fullmatch(f"{API}/{name}") for name in names)
    assert not OPEN_ROUTES["GET"].fullmatch("/monitoring")
    assert OPEN_ROUTES["POST"].fullmatch(f"{API}/queue/join")
    assert OPEN_ROUTES["GET"].fullmatch(f"{API}/heartbeat/abc")


def test_headers_are_added():
    headers = ask(Headers(echo), method="GET")[1]
    assert b"frame-ancestors 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_an_error_is_one_line(capsys):
    async def fails(scope, receive, send):
        raise ExceptionGroup("several", [KeyError("no\nsuch\x1b[2J name" * 99)])

    status, _, text = ask(ShortErrors(fails), b"", path="/gradio_api/call/x")
    told = capsys.readouterr().err
    assert status == 400 and b"could not read" in text
    assert told.count("\n") == 1 and "KeyError" in told and "\x1b" not in told and len(told) < 320


def kept(**queues):
    "Build what gradio keeps: `queues` are the numbers of unread messages of sessions."
    cleaned = []

    async def clean_events(session_hash):
        cleaned.append(session_hash)

    messages = {name: SimpleNamespace(qsize=lambda n=n: n) for name, n in queues.items()}
    queue = SimpleNamespace(pending_messages_per_session=messages, clean_events=clean_events)
    queue.pending_event_ids_session = {name: set() for name in queues}
    data = OrderedDict((name, object()) for name in queues)
    states = SimpleNamespace(session_data=data, time_last_used=dict.fromkeys(queues, 0))
    return SimpleNamespace(_queue=queue, state_holder=states, pending_streams={}), cleaned


def test_closed_sessions_are_dropped_after_a_while(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bounds, "time", SimpleNamespace(monotonic=lambda: now[0]))
    page, cleaned = kept(gone=1, here=1)
    sessions = Sessions(echo, keep=60)
    sessions.streams["here"] = 1
    for now[0] in (0.0, 59.0):
        run(sessions.sweep(page))
        assert set(page.state_holder.session_data) == {"gone", "here"}
    now[0] = 61.0
    run(sessions.sweep(page))
    assert cleaned == ["gone"] and set(page.state_holder.session_data) == {"here"}
    assert set(page._queue.pending_messages_per_session) == {"here"} and not sessions.closed


def test_many_closed_sessions_are_dropped_at_once():
    page, cleaned = kept(**{f"s{n}": 1 for n in range(400)})
    sessions = Sessions(echo, limit=64)
    sessions.streams["s0"] = 1
    run(sessions.sweep(page))
    assert [*page.state_holder.session_data] == ["s0", *(f"s{n}" for n in range(336, 400))]  # the newest
    assert len(cleaned) == 335


def test_unread_answers_are_dropped_though_the_stream_is_open():
    page, cleaned = kept(slow=MOST_UNREAD + 1, quick=MOST_UNREAD)
    sessions = Sessions(echo)
    sessions.streams |= dict(slow=1, quick=1)
    run(sessions.sweep(page))
    assert cleaned == ["slow"]


def test_streams_are_counted_while_they_are_open():
    page, _ = kept()
    seen = []

    async def stream(scope, receive, send):
        seen.append(dict(scope[STREAMS]))

    sessions = Sessions(stream)
    query = dict(method="GET", path=f"{API}/queue/data", query_string=b"session_hash=ann")
    app = SimpleNamespace(get_blocks=lambda: page)
    run(sessions(dict(type="http", app=app, **query), None, None))
    assert seen == [{"ann": 1}] and not sessions.streams
