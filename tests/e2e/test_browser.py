"""What a browser makes of the status page, and of the demo, over TLS and without."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestbook import prepare
from tests import certificates
from tests.browser import Browser, Page, found_browser
from tests.e2e.harness import Server, request, serving

DEMO = Path(__file__).resolve().parent.parent.parent / "examples/demo"

SETTINGS = """
bind = ["http://127.0.0.1:0", "https://127.0.0.1:0"]
certfile = "server.pem"
keyfile = "server.key"
workers = 1
threads = 4
[routes]
"/" = "guestbook:create_app()"
"/live" = { app = "live:app", workers = 1 }
"/static" = "./guestbook/static"
"/download" = "./var/download"
"/status" = { status_page = true }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found_browser()
    folder = tmp_path_factory.mktemp("browser") / "demo"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("var", "__pycache__"))
    prepare.prepare(folder / "var", size=prepare.MIB)
    certificates.write(folder, certificates.issued("localhost", "127.0.0.1"))
    (folder / "halfsync.toml").write_text(SETTINGS)
    with serving(folder, bind=False) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(certificates.chain_of(certificates.issued("localhost", "127.0.0.1"))) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.page()
    yield opened
    opened.close()


def clear(server: Server) -> str:
    [address] = [one for one in server.addresses if one.startswith("http://")]
    return address


def secure(server: Server) -> str:
    [address] = [one for one in server.addresses if one.startswith("https://")]
    return address


def check(page: Page, site: str) -> None:
    """Nothing went wrong, and nothing was asked of anybody else."""
    assert page.complaints == []
    foreign = [one for one in page.requested.values() if not one.startswith((site, "data:", "blob:"))]
    assert foreign == []


def status(server: Server, page: Page) -> None:
    """The page with plots, which need two points five seconds apart."""
    server.until(lambda: b"<polyline" in server.get("/status").body)
    page.go(f"{clear(server)}/status")


def test_the_status_page(server, page):
    with server.client() as client:
        client.send(request("/live/clock"))
        server.until(lambda: b'<b class="W" title="GET' in server.get("/status").body)
        status(server, page)
        check(page, clear(server))
        headings = page.evaluate("[...document.querySelectorAll('h2')].map(one => one.textContent)")
        assert {"Threads", "The last 15 minutes", "Pools and queues", "Processes", "Leases"} <= set(headings)
        assert "Certificates" in headings
        letters = "[...document.querySelectorAll('.legend b')].map(one => one.textContent).join('')"
        assert page.evaluate(letters) == "W_G.!"
        # Each letter has the colour that the legend gives it, and no two of them are alike.
        colours = """Object.fromEntries([...document.querySelectorAll('%s b')]
            .map(one => [one.textContent, getComputedStyle(one).backgroundColor]))"""
        explained, shown = page.evaluate(colours % ".legend"), page.evaluate(colours % ".board")
        assert len(set(explained.values())) == len(explained) == 5
        assert shown == {letter: explained[letter] for letter in "W_"}
        assert "GET '/live/clock' for" in page.evaluate("document.querySelector('.board .W').title")
        assert page.evaluate("document.querySelectorAll('svg.plot').length") == 3
        # A line is drawn: it has a place, and a colour.
        assert page.evaluate(
            """[...document.querySelectorAll('svg.plot polyline')].every(one =>
                one.getBBox().width > 0 && getComputedStyle(one).stroke.startsWith('rgb'))"""
        )


def test_the_status_page_goes_on_by_itself(server, page):
    status(server, page)
    for _ in range(3):
        server.get("/static/logo.svg")
    before = page.evaluate("document.querySelector('main p').textContent")
    page.evaluate("document.querySelector('details').open = true")
    page.until(f"document.querySelector('main p').textContent !== {before!r}")
    assert page.evaluate("document.querySelector('details').open")
    assert page.evaluate("document.querySelector('#live').textContent.trim()") == "live"
    check(page, clear(server))


def test_on_a_telephone_nothing_is_cut_off(server, browser):
    page = browser.page(width=360, height=640)
    status(server, page)
    assert page.evaluate("innerWidth") == 360
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.evaluate("document.querySelector('details').open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_by_day_and_by_night(server, browser, dark):
    page = browser.page(dark=dark)
    status(server, page)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    text, ground = (
        luminance(page.evaluate(expression))
        for expression in ("getComputedStyle(document.body).color", GROUND)
    )
    assert (text > ground) is dark
    letter, behind = (
        luminance(page.evaluate(f"getComputedStyle(document.querySelector('.board b')).{of}"))
        for of in ("color", "backgroundColor")
    )
    line = luminance(page.evaluate("getComputedStyle(document.querySelector('polyline')).stroke"))
    for one, other in ((text, ground), (letter, behind), (line, ground)):
        assert contrast(one, other) >= 4.5  # WCAG 2.1, 1.4.3
    page.close()


GROUND = """(() => { const box = document.createElement('p'); box.style.background = 'Canvas';
document.body.append(box); const found = getComputedStyle(box).backgroundColor;
box.remove(); return found; })()"""


def luminance(colour: str) -> float:
    """Relative, as WCAG 2.1 defines it. `colour`: "rgb(1, 2, 3)"."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_without_scripts_it_is_tables_and_plots(server, browser):
    page = browser.page(scripts=False)
    status(server, page)
    check(page, clear(server))
    text = page.ask("Runtime.evaluate", expression="document.body.innerText", returnByValue=True)
    assert "Pools and queues" in text["result"]["value"]
    page.close()


PAGES = ("/", "/notes", "/upload", "/leased", "/request", "/live")


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_the_demos_pages(server, page, protocol):
    site = secure(server) if protocol == "h2" else clear(server)
    for path in PAGES:
        page.go(site + path)
        assert page.protocol == protocol, path
        assert page.statuses[site + path] == 200
        assert page.evaluate("document.querySelector('h1').getBoundingClientRect().height") > 0
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert page.evaluate("document.styleSheets.length") > 0
    check(page, site)


def test_a_note_is_written_with_the_form(server, page):
    page.go(f"{secure(server)}/notes")
    page.evaluate(
        """(() => { document.querySelector('[name=name]').value = 'Ann';
        document.querySelector('[name=text]').value = '<b>seen</b>';
        document.querySelector('[name=text]').form.requestSubmit(); })()"""
    )
    page.until("document.readyState === 'complete' && document.body.innerText.includes('<b>seen</b>')")
    check(page, secure(server))


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_the_live_page(server, page, scheme):
    page.go((secure(server) if scheme == "https" else clear(server)) + "/live")
    page.until("document.querySelector('#state').textContent === 'in the room'")
    page.until("/^[0-9:]{8} in process/.test(document.querySelector('#clock').textContent)")
    page.evaluate(
        f"""(() => {{ document.querySelector('#text').value = 'hello over {scheme}';
        document.querySelector('#say').requestSubmit(); }})()"""
    )
    page.until(f"document.querySelector('#room').textContent.includes('hello over {scheme}')")
    assert page.complaints == []
