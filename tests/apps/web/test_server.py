"The page behind a proxy, on the network, and on the command line; a race and a full queue in the browser."

import contextlib
import inspect
import threading
import time

import gradio as gr
import httpx
import pytest
import uvicorn
from boards import BOARD, answered, untrained
from chromium import needs_chromium, tab
from gradio_client import Client
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from mvl_bench.apps.cli.main import main
from mvl_bench.apps.web import app, server, tabs
from mvl_bench.core import UserError

ROOT = "/user/ann/proxy/7860"
HOP = {"content-encoding", "content-length", "transfer-encoding", "connection"}


def proxy(target, strips):
    "Build a reverse proxy that serves `target` under ROOT and nothing else, as nginx or JupyterHub do."
    client = httpx.AsyncClient(base_url=target.rstrip("/"), timeout=60)

    async def forward(request):
        path = request.path_params["path"]
        path = f"/{path}" if strips else f"{ROOT}/{path}"
        headers = {k: v for k, v in request.headers.items() if k not in HOP | {"accept-encoding"}}
        url = httpx.URL(path=path, query=request.url.query.encode())
        body = await request.body()
        ask = client.build_request(request.method, url, headers=headers, content=body)
        told = await client.send(ask, stream=True)
        kept = {k: v for k, v in told.headers.items() if k not in HOP}

        async def parts():
            try:
                async for part in told.aiter_bytes():
                    yield part
            finally:
                await told.aclose()

        return StreamingResponse(parts(), told.status_code, kept)

    return Starlette(routes=[Route(f"{ROOT}/{{path:path}}", forward, methods=["GET", "POST", "HEAD"])])


@contextlib.contextmanager
def proxied(target, strips):
    "Run the proxy; yield the address of the page behind it."
    config = uvicorn.Config(proxy(target, strips), host="127.0.0.1", port=0, log_level="error")
    config.timeout_graceful_shutdown = 1
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not running.started:
        assert time.monotonic() < until
        time.sleep(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}{ROOT}/"
    running.should_exit = True
    thread.join(10)


@contextlib.contextmanager
def page_of(**options):
    "Open the page of a small model; yield it with its address."
    blocks = app.build({"random": untrained()})
    try:
        yield blocks, server.open_page(blocks, **options)
    finally:
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def behind():
    "Address of a page that was told ROOT."
    with page_of(root_path=ROOT) as (_, url):
        yield url


@needs_chromium
@pytest.mark.parametrize("strips", [True, False], ids=["strips", "keeps"])
def test_every_click_works_under_a_path(browser, behind, strips):
    with proxied(behind, strips) as url:
        client = Client(url, verbose=False)
        board = client.predict(api_name="/start")
        masked = client.predict(board["state"], "0-3", "", api_name="/hide")
        assert masked["state"]["patches"] == "0-3"
        client.close()
        with tab(browser) as page:
            asked = []
            page.on("request", lambda call: asked.append(call.url))
            page.goto(url)
            page.locator(BOARD).wait_for()
            with answered(page):
                page.locator(".mb-cell").nth(6).click()
            assert page.locator(".mb-cell").nth(6).get_attribute("aria-selected") == "true"
            own = [one for one in asked if one.startswith("http")]
            assert len(own) > 10 and all(one.startswith(url) for one in own)


def test_a_proxied_page_answers_under_any_name(behind):
    assert httpx.get(behind, headers={"host": "hub.example"}).status_code == 200


@pytest.mark.parametrize("root", ["user", "/a b", "/../x", "ftp://x/y", "/a?b", "//evil.example"])
def test_a_wrong_root_path_is_one_sentence(root, capsys):
    with pytest.raises(UserError, match="--root-path"):
        server.check_root_path(root)
    assert main(["demo", "--root-path", root]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and repr(root) in told.err and not told.out


def test_root_paths_are_tidied():
    told = map(server.check_root_path, ("", "/", "/a/b/", "https://hub.example/user/ann/"))
    assert list(told) == ["", "", "/a/b", "https://hub.example/user/ann"]


@pytest.mark.parametrize("host, lines", [("0.0.0.0", 1), ("::", 1), ("127.0.0.1", 0), ("::1", 0)])
def test_a_page_for_the_network_warns(host, lines, capsys):
    server.warn_of_network(host)
    told = capsys.readouterr().err
    assert told.count("\n") == lines and ("no password" in told) == bool(lines)


def test_serve_warns_and_answers_other_names(monkeypatch, capsys):
    with gr.Blocks() as blocks:
        gr.Markdown("nothing")
    monkeypatch.setattr(server, "load", lambda name, device: untrained())
    monkeypatch.setattr(server, "build", lambda models: blocks.queue())
    monkeypatch.setattr(blocks, "block_thread", lambda: None)
    try:
        server.serve("one", host="0.0.0.0", port=None, also=())
        told = capsys.readouterr()
        assert "0.0.0.0" in told.err and "The page is at" in told.out
        address = f"http://127.0.0.1:{blocks.server_port}"
        assert httpx.get(address, headers={"host": "bench.example"}).status_code == 200
    finally:
        blocks.close(verbose=False)


def test_a_port_that_is_none_is_one_sentence():
    with gr.Blocks() as blocks:
        gr.Markdown("nothing")
    with pytest.raises(UserError, match="port 99999"):
        server.open_page(blocks, port=99999)


@needs_chromium
def test_a_full_queue_says_busy_at_once(browser):
    with page_of() as (blocks, url), tab(browser, silent=False) as page:
        page.goto(url)
        page.locator(BOARD).wait_for()
        blocks._queue.max_size = 0
        page.locator(".mb-cell").nth(6).click()
        page.locator(".mb-error").get_by_text("busy").wait_for(timeout=5000)  # of 15 s of patience
        assert page.locator(".mb[aria-busy]").count() == 0
        blocks._queue.max_size = 64
        with answered(page):
            page.locator(".mb-cell").nth(9).click()
        assert page.locator(".mb-error").count() == 0


def until(holds, seconds=60):
    "Wait until something holds."
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_unattended_races_keep_nobody_out(monkeypatch):
    monkeypatch.setattr(tabs.JOBS, "grace", 600.0)  # nobody leaves while the others arrive
    with page_of() as (blocks, url), httpx.Client(base_url=url, timeout=60) as client:
        generators = (fn for fn in blocks.fns.values() if inspect.isgeneratorfunction(fn.fn))
        race = next(fn for fn in generators if fn.concurrency_limit is None)
        data = [part.value for part in race.inputs]
        data[1] = dict(settings=dict(start=True), seq=1)  # as the Start button does
        for n in range(70):
            ask = dict(data=data, fn_index=race._id, session_hash=f"race{n}")
            assert client.post("gradio_api/queue/join", json=ask).status_code == 200
        until(lambda: len(tabs.JOBS) == 5)
        monkeypatch.setattr(tabs.JOBS, "grace", 1.0)
        event = client.post("gradio_api/call/start", json=dict(data=[])).json()["event_id"]
        assert "event: complete" in client.get(f"gradio_api/call/start/{event}").text
        until(lambda: len(tabs.JOBS) == 0)
        assert len(blocks._queue) == 0


@needs_chromium
def test_a_race_waits_its_turn_and_can_be_withdrawn(browser):
    races = tabs.JOBS
    with page_of() as (_, url), tab(browser) as page:
        page.goto(url)
        page.locator(BOARD).wait_for()
        page.get_by_role("tab", name="Masking race").click()
        other = races._enter("another visitor")
        other.last_step += 600  # it is not stale meanwhile
        try:
            page.get_by_role("button", name="Start", exact=True).click()
            page.get_by_text("1 other visitor is before you").wait_for(timeout=45_000)
            assert len(races) == 2
            page.get_by_role("button", name="Stop").click()
            until(lambda: len(races) == 1)
        finally:
            races._line.remove(other)


@needs_chromium
def test_a_closed_tab_ends_its_race(browser, monkeypatch):
    monkeypatch.setattr(tabs.JOBS, "grace", 1.0)
    with page_of() as (_, url):
        with tab(browser) as page:
            page.goto(url)
            page.locator(BOARD).wait_for()
            page.get_by_role("tab", name="Masking race").click()
            page.get_by_role("button", name="Start", exact=True).click()
            until(lambda: len(tabs.JOBS) == 1)
        until(lambda: len(tabs.JOBS) == 0)
        assert len(tabs.JOBS) == 0
