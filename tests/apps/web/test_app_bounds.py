"The page keeps to itself: no file is read, none is stored, requests are bounded, a taken port is one sentence."

import json
import socket
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import gradio as gr
import pytest
from boards import url

from mvl_bench.apps.web import server
from mvl_bench.core import UserError

__all__ = ["url"]  # a fixture


def refused(url, path, body=None, **headers):
    "Status with which a request is refused."
    ask = urllib.request.Request(f"{url}gradio_api/{path}", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(ask)
    return caught.value.code


def call(url, name, data, **more):
    "Post an API call and return its event."
    body = json.dumps(dict(data=data, **more)).encode()
    ask = urllib.request.Request(
        f"{url}gradio_api/call/{name}", body, {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(ask))["event_id"]


def answer(url, name, event):
    "Return the stream of a call's answer as text."
    with urllib.request.urlopen(f"{url}gradio_api/call/{name}/{event}") as told:
        return told.read().decode()


def test_no_file_can_be_read_and_none_stored(url):
    for path in ("/etc/passwd", "settings.ini", "../settings.ini", "%2e%2e%2fsettings.ini"):
        assert refused(url, f"file={path}") in (403, 404)
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nhello\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for path in ("upload", "component_server", "stream/a", "process_recording", "run/hide"):
        assert refused(url, path, body, **kind) == 404, path
    for path in ("upload_progress?upload_id=a", "proxy=http://127.0.0.1/", "dev/reload", "token"):
        assert refused(url, path) == 404, path
    file = dict(path="/etc/hostname", meta=dict(_type="gradio.FileData"))
    state = dict(v=1, picture=file, caption="a")
    for data in ([file, "", ""], [state, "", ""], [dict(state=state, given=file), file, file]):
        assert answer(url, "hide", call(url, "hide", data)).startswith("event: error")


def spoken(url, data, timeout=12.0):
    "Send bytes and return the first line of the answer."
    with socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout) as line:
        try:
            for part in data:
                line.sendall(part)
        except ConnectionError:
            pass  # cut while it sends: the answer is there
        return line.recv(200).split(b"\r\n")[0]


HEAD = b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def test_requests_are_bounded(url):
    assert b" 413 " in spoken(url, [HEAD + b"Content-Length: 9000000\r\n\r\n"])
    chunk = b"200000\r\n" + b" " * 0x200000 + b"\r\n"
    assert b" 413 " in spoken(url, [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 4])
    small = b'Content-Type: application/json\r\n\r\n2\r\n{}\r\n0\r\n\r\n'
    assert b" 422 " in spoken(url, [HEAD + b"Transfer-Encoding: chunked\r\n", small])


def test_headers_and_names(url):
    with urllib.request.urlopen(url) as page:
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert page.headers["X-Content-Type-Options"] == "nosniff"
    for path in ("queue/data?session_hash=a", "info"):
        assert refused(url, path, Host="evil.example") == 403
    body, text = b'{"data": [], "fn_index": 0, "session_hash": "a"}', {"Content-Type": "text/plain"}
    assert refused(url, "queue/join", body, Origin="http://evil.example", **text) == 403


def test_a_malformed_call_is_one_line(url, capfd):
    for data in ([1], [1, 2, 3, 4, 5], [dict(meta=dict(_type="gradio.FileData")), "", ""], [[], {}, 7]):
        assert answer(url, "hide", call(url, "hide", data)).startswith("event: error")
    kind = {"Content-Type": "application/json"}
    for name in ("call/nosuch", "call/v2/nosuch"):
        assert refused(url, name, b'{"data": []}', **kind) in (400, 404), name
    told = capfd.readouterr().err
    assert "Traceback" not in told and "site-packages" not in told
    lines = [line for line in told.splitlines() if line.startswith("mvl-bench demo: ")]
    assert 1 <= len(lines) <= 6


def sessions_of(blocks):
    "Count what gradio keeps by session."
    queue = blocks._queue
    kept = (blocks.state_holder.session_data, queue.pending_messages_per_session)
    return max(len(table) for table in (*kept, queue.pending_event_ids_session))


def test_sessions_leave_nothing_behind():
    def start() -> str:
        return "x" * 10

    with gr.Blocks() as blocks:
        gr.api(start)
    url = server.open_page(blocks.queue())
    try:
        for n in range(150):  # nobody fetches these
            call(url, "start", [], **({} if n % 2 else dict(session_hash=f"s{n}")))
        for _ in range(150):
            assert "event: complete" in answer(url, "start", call(url, "start", []))
        time.sleep(1.1)
        call(url, "start", [])
        assert sessions_of(blocks) <= 66
        assert answer(url, "start", call(url, "start", [])).startswith("event: complete")
    finally:
        blocks.close(verbose=False)


def test_a_taken_port_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with gr.Blocks() as blocks:
            gr.Markdown("nothing")
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1"):
            server.open_page(blocks, port=port)
