"""The report page as a browser sees it: every link and picture is there, nothing is asked of the network, nothing complains."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from PIL import Image

from cxr_companion.report.page import build_report, notebook_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NARROW, DESK = (500, 900), (1280, 900)  # 500 px is the narrowest window of headless Chromium


class Page(HTMLParser):
    """Ids, links and pictures of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.ids, self.links, self.pictures, self.language = set(), [], [], None
        self.found, self.headings = [], []  # tags with their attributes, levels of headings
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.found.append((tag, found))
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
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


def test_a_keyboard_reaches_everything(page):
    """First a link past the head; what scrolls can be focused and has a name; nothing takes the focus out of order."""
    first = next(a for tag, a in page.found if tag in ("a", "summary", "button", "input"))
    assert first["href"] == "#content" and "content" in page.ids
    scrolls = [a for _, a in page.found if "scroll" in (a.get("class") or "").split()]
    assert len(scrolls) > 5
    for scroll in scrolls:
        assert scroll.get("tabindex") == "0" and scroll.get("role") == "region" and scroll.get("aria-label"), scroll
    assert {a["tabindex"] for _, a in page.found if "tabindex" in a} == {"0"}


def test_a_screen_reader_finds_its_way(page):
    """Landmarks, one main heading, no level left out, tables with heads for their columns."""
    tags = [tag for tag, _ in page.found]
    assert [tags.count(tag) for tag in ("main", "header", "footer", "h1", "nav")] == [1] * 5
    assert all(a.get("aria-label") for tag, a in page.found if tag == "nav")
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert tags.count("table") > 5 and all(a.get("scope") for tag, a in page.found if tag == "th")


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    """Ratio of two colours, 1 to 21 (WCAG 2.2)."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_text_stands_out_from_its_ground(report):
    """In the light and the dark scheme, at least 4.5 to 1 (WCAG AA)."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") < 4.5
    light, dark = (dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", block)) for block in re.findall(r":root\{([^}]*)\}", report.read_text())[:2])  # fmt: skip
    for scheme in (light, light | dark):
        pairs = [(text, ground) for text in ("ink", "soft", "accent") for ground in ("ground", "card")]
        pairs += [("ink", "code"), *((name, f"{name}-ground") for name in ("warn", "good", "bad"))]
        poor = {pair: round(contrast(*(scheme[name] for name in pair)), 2) for pair in pairs}
        assert not {pair: ratio for pair, ratio in poor.items() if ratio < 4.5}


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


MEASURE = """<script>{
  const marks = [...document.querySelectorAll("h1, h2, h3, figure, figcaption, pre, table")]
  const tops = () => marks.map(m => m.getBoundingClientRect().top), before = tops()  // no picture has come yet
  addEventListener("load", () => setTimeout(() => {
    const wide = document.documentElement.scrollWidth, out = document.createElement("p")
    const moved = Math.max(0, ...tops().map((top, k) => Math.abs(top - before[k]))) / innerHeight
    const pictures = [...document.images], seen = pictures.filter(i => i.complete && i.naturalWidth > 0)
    out.id = "measured"
    out.textContent = [wide, innerWidth, moved.toFixed(3), pictures.length, seen.length].join(" ")
    document.body.append(out)
  }, 1000))
}</script></body>"""


def measured(page: Path, html: str, folder: Path, size: tuple[int, int]) -> tuple[int, int, float, int, int]:
    """Width of the page and of the window, how far anything jumped (heights of the window), pictures on it, pictures seen.

    By a script, for which a copy beside the page gives up the page's own ban on scripts.
    """
    copy = page.with_name("measured.html")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    copy.write_text(html.replace("</body>", MEASURE).replace('loading="lazy"', ""))  # all pictures, now
    done = browse(copy, folder, size, "--dump-dom")
    found = re.search(r'id="measured">(\d+) (\d+) ([\d.]+) (\d+) (\d+)<', done.stdout)
    assert found, done.stderr[-2000:]
    wide, window, moved, pictures, seen = found.groups()
    return int(wide), int(window), float(moved), int(pictures), int(seen)


@pytest.mark.parametrize("size", (NARROW, DESK))
def test_it_fits_doesnt_jump_and_shows_every_picture(report, tmp_path, size):
    wide, window, moved, pictures, seen = measured(report, report.read_text(), tmp_path, size)
    assert wide <= window and moved < 0.1
    assert pictures > 50 and seen == pictures


def test_the_measure_notices_a_page_that_jumps_and_one_that_is_too_wide(report, tmp_path):
    """A wide block that comes late."""
    late = '<script>setTimeout(() => document.body.prepend(document.getElementById("late")), 300)</script>'
    block = '<div id="late" style="height:400px;width:3000px"></div>'
    wide, window, moved, *_ = measured(report, report.read_text().replace("</body>", f"{block}{late}</body>"), tmp_path, DESK)  # fmt: skip
    assert wide > window and moved > 0.1


def test_a_notebook_is_a_page_of_the_same_kind(tmp_path):
    """Opened in the browser: it fits, doesn't jump, complains of nothing, and a keyboard gets past its head."""
    drawn = io.BytesIO()
    Image.effect_noise((900, 700), 40).save(drawn, "PNG")  # large: it comes after the text
    noise = base64.b64encode(drawn.getvalue()).decode()
    table = "<table><thead><tr>" + "<th>a long head</th>" * 40 + "</tr></thead></table>"
    outputs = [
        nbformat.v4.new_output("display_data", data={"image/png": noise, "text/plain": "a figure"}),
        nbformat.v4.new_output("display_data", data={"text/html": table}),
        nbformat.v4.new_output("stream", name="stdout", text="a line " * 200),
    ]
    cells = [nbformat.v4.new_markdown_cell("# Made up"), nbformat.v4.new_code_cell("1", outputs=outputs, execution_count=1)]  # fmt: skip
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    page = tmp_path / "a.html"
    page.write_text(notebook_page(tmp_path / "a.ipynb"))
    found = Page(page.read_text())
    assert found.links[0] == "#content" and "content" in found.ids and len(found.pictures) == 1
    done = browse(page, tmp_path, NARROW, "--dump-dom")
    assert "</html>" in done.stdout and not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    wide, window, moved, pictures, seen = measured(page, page.read_text(), tmp_path, NARROW)
    assert wide <= window and moved < 0.1 and (pictures, seen) == (1, 1)
