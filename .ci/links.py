"Walk a built site: broken links, anchors and pictures, and anything a page would fetch from elsewhere."

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"script", "link", "img", "iframe", "source", "video", "audio", "embed", "object", "image"}
CSS_URL = re.compile(r"""(?:@import\s+(?:url\(\s*)?|url\(\s*)["']?([^"')\s]+)""")
INLINE = ("data:", "blob:", "javascript:", "mailto:", "#")


class Page(HTMLParser):
    "The ids of a page, where it links to, and what it loads."

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.in_style = {"", "top"}, set(), set(), False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        self.ids |= {attrs[name] for name in ("id", "name") if name in attrs}
        found = [attrs[name] for name in ("href", "src", "data", "poster") if attrs.get(name)]
        found += [part.split()[0] for part in attrs.get("srcset", "").split(",") if part.strip()]
        (self.loads if tag in LOADS else self.links).update(found)
        self.loads |= set(CSS_URL.findall(attrs.get("style", "")))

    def handle_data(self, data):
        if self.in_style:
            self.loads |= set(CSS_URL.findall(data))


def is_elsewhere(link):
    return bool(urlsplit(link).netloc) or urlsplit(link).scheme in ("http", "https")


def fault_of(link, path, site, pages):
    "What is wrong with a link within the site, written in the file `path`; None if it holds."
    parts = urlsplit(link)
    target = path
    if parts.path.startswith("/"):
        return f"link {link} does not survive a move to another base"
    if parts.path:
        target = (path.parent / unquote(parts.path)).resolve()
        target = target / "index.html" if target.is_dir() else target
    if site not in target.parents or not target.is_file():
        return f"broken link {link}"
    if target in pages and unquote(parts.fragment) not in pages[target].ids:
        return f"link {link} names an anchor that is not there"
    return None


def check(site):
    "Number of pages in the folder `site`, and a line for each fault."
    site = Path(site).resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = {path: (page.links, page.loads) for path, page in pages.items()}
    for path in site.rglob("*.css"):
        found[path] = set(), set(CSS_URL.findall(path.read_text(encoding="utf-8")))
    for path in site.glob("search.json"):
        found[path] = (
            {entry["href"] for entry in json.loads(path.read_text(encoding="utf-8"))},
            set(),
        )
    faults = [] if pages else ["there is no page"]
    for path, (links, loads) in found.items():
        where = path.relative_to(site).as_posix()
        faults += [f"{where}: asks the network for {link}" for link in loads if is_elsewhere(link)]
        here = {x for x in links | loads if not is_elsewhere(x)}
        here = {link for link in here if link.startswith("#") or not link.startswith(INLINE)}
        complaints = (fault_of(link, path, site, pages) for link in here)
        faults += [f"{where}: {complaint}" for complaint in complaints if complaint]
    return len(pages), sorted(faults)
