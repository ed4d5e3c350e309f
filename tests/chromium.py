"A headless Chromium that reaches this machine and no other."

import shutil
from contextlib import contextmanager
from os import environ

import pytest

CHROMIUM = environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-extensions"]
LOCAL = ("http://127.0.0.1", "http://localhost", "ws://127.0.0.1", "data:", "blob:", "file:")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)


@contextmanager
def tab(browser, width=1280, height=900, touch=False, silent=True):
    "A fresh tab; afterwards: no request to another machine, and no complaint in the console of a page of ours."
    context = browser.new_context(viewport=dict(width=width, height=height), has_touch=touch)
    context.set_default_timeout(15_000)
    page, told, left = context.new_page(), [], []

    def route(call):
        if call.request.url.startswith(LOCAL):
            return call.continue_()
        left.append(call.request.url)
        return call.abort()

    context.route("**/*", route)
    page.on("console", lambda message: message.type == "error" and told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    yield page
    context.close()
    assert not (silent and told) and not left, f"console: {told}, asked: {left}"
