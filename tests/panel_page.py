"A page that holds one panel and nothing else: its script answers in this process."

from contextlib import contextmanager

from chromium import tab

from mvl_bench.apps.panels.base import last_answer, style

PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>panel</title><style>%s</style></head><body><div id="host"></div></body></html>"""
START = """first => { window.panel = mount(document.getElementById('host'), build, first, (request) => window.answer(request).then((reply) => window.panel.update(reply))); }"""
STILL = "() => !document.querySelector('.mb-busy')"


@contextmanager
def panel_page(browser, panel, models, board, settings=None, **window):
    "The page in a fresh tab, with its first answer; `page.asked` lists the requests."
    with tab(browser, **window) as page:
        page.asked = []

        def reply(request):
            page.asked.append(request)
            return last_answer(panel, models, board, request)

        page.expose_function("answer", reply)
        page.set_content(PAGE % style())
        page.add_script_tag(content=panel.script())
        page.evaluate(START, last_answer(panel, models, board, dict(settings=settings or {})))
        yield page


def still(page):
    "Wait until the last request is answered."
    page.wait_for_timeout(50)
    page.wait_for_function(STILL, timeout=60_000)
