"The page keeps to itself: no file is read, none is stored, requests are bounded, a taken port is one sentence."

import json
import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import gradio as gr
import pytest
from boards import url

from mvl_bench.apps.web import app
from mvl_bench.core import UserError

__all__ = ["url"]  # a fixture


def refused(url, path, body=None, **headers):
    "Status with which a request is refused."
    ask = urllib.request.Request(f"{url}gradio_api/{path}", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(ask)
    return caught.value.code


def test_no_file_can_be_read_and_none_stored(url):
    for path in ("/etc/passwd", "settings.ini", "../settings.ini", "%2e%2e%2fsettings.ini"):
        assert refused(url, f"file={path}") in (403, 404)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n%b\r\n--x--\r\n'
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert refused(url, "upload", body % bytes(9000), **kind) == 413
    file = dict(path="/etc/hostname", meta=dict(_type="gradio.FileData"))
    state = dict(v=1, picture=file, caption="a")
    for data in ([file, "", ""], [state, "", ""], [dict(state=state, given=file), file, file]):
        ask = urllib.request.Request(
            f"{url}gradio_api/call/hide",
            json.dumps(dict(data=data)).encode(),
            {"Content-Type": "application/json"},
        )
        event = json.load(urllib.request.urlopen(ask))["event_id"]
        with urllib.request.urlopen(f"{url}gradio_api/call/hide/{event}") as told:
            assert told.read().startswith(b"event: error")


@pytest.mark.parametrize("size", ["Transfer-Encoding: chunked", "Content-Length: 9000000"])
def test_requests_are_bounded(url, size):
    with socket.create_connection(("127.0.0.1", urlsplit(url).port), 10) as line:
        head = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: a\r\n{size}\r\n\r\n"
        line.sendall(head.encode())
        assert b" 413 " in line.recv(200)


def test_a_taken_port_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with gr.Blocks() as blocks:
            gr.Markdown("nothing")
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1"):
            app.open_page(blocks, port=port)
