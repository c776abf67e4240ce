"""The report page as a browser sees it: every link and picture is there, nothing is asked of the network, nothing complains."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from cxr_companion.report.page import build_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NARROW, DESK = (500, 900), (1280, 900)  # 500 px is the narrowest window of headless Chromium


class Page(HTMLParser):
    """Ids, links and pictures of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.ids, self.links, self.pictures, self.language = set(), [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.links += [found["href"]] if tag in ("a", "link") and found.get("href") else []
        self.pictures += [found] if tag == "img" else []
        self.language = found.get("lang") if tag == "html" else self.language


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page of the committed figures and results."""
    return build_report(out=tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.read_text())


def test_every_link_leads_somewhere(report, page):
    """Beside the page, or to an id of it; what lies outside are citations, which only a click opens."""
    assert len(page.links) > 20
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids, link
        elif not re.match(r"https?:|mailto:", link):
            assert (report.parent / unquote(link.split("#")[0])).exists(), link


def test_every_picture_is_there_and_described(report, page):
    """With words for those who don't see it, and its size, so that nothing jumps while it loads."""
    assert len(page.pictures) > 50 and page.language == "en"
    for picture in page.pictures:
        assert picture["alt"].strip() and picture["width"] and picture["height"], picture
        assert picture["src"].startswith("data:") or (report.parent / picture["src"]).is_file(), picture["src"]


def test_the_page_forbids_itself_to_ask_the_network(report):
    """A browser keeps to the page's own policy: nothing but pictures beside it, no script."""
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', report.read_text())[1].replace("&#39;", "'")
    rules = dict(rule.split(None, 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and set(rules) == {"default-src", "img-src", "style-src"}
    assert set(rules["img-src"].split()) == {"'self'", "data:", "file:"} and rules["style-src"] == "'unsafe-inline'"


def browse(page: Path, folder: Path, size: tuple[int, int], *words: str) -> subprocess.CompletedProcess:
    """Open a page in headless Chromium without a network."""
    if BROWSER is None:
        pytest.skip("no Chromium here")
    call = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    call += ["--enable-logging=stderr", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=30000"]
    call += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]
    return subprocess.run([*call, *words, page.as_uri()], capture_output=True, text=True, timeout=180)


def test_a_browser_complains_of_nothing(report, tmp_path):
    done = browse(report, tmp_path, DESK, "--dump-dom")
    assert "</html>" in done.stdout
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said


MEASURE = """<script>addEventListener("load", () => {
  const wide = document.documentElement.scrollWidth, out = document.createElement("p")
  let moved = 0
  new PerformanceObserver(list => { for (const e of list.getEntries()) moved += e.value }).observe({type: "layout-shift", buffered: true})
  const pictures = [...document.images], seen = pictures.filter(i => i.complete && i.naturalWidth > 0)
  setTimeout(() => {
    out.id = "measured"
    out.textContent = [wide, innerWidth, moved.toFixed(3), pictures.length, seen.length].join(" ")
    document.body.append(out)
  }, 1000)
})</script></body>"""


@pytest.mark.parametrize("size", (NARROW, DESK))
def test_it_fits_doesnt_jump_and_shows_every_picture(report, tmp_path, size):
    """Measured in the browser by a script, for which the copy gives up the page's own ban on scripts."""
    copy = report.with_name("measured.html")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text())
    copy.write_text(html.replace("</body>", MEASURE).replace('loading="lazy"', ""))  # all pictures, now
    done = browse(copy, tmp_path, size, "--dump-dom")
    found = re.search(r'id="measured">(\d+) (\d+) ([\d.]+) (\d+) (\d+)<', done.stdout)
    assert found, done.stderr[-2000:]
    wide, window, moved, pictures, seen = found.groups()
    assert int(wide) <= int(window) and float(moved) < 0.1
    assert int(pictures) > 50 and seen == pictures
