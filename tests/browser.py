"""A real browser for tests: Debian's Chromium, driven by Playwright, watched for errors and requests that leave."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from undertow.reporting.viewing.server import ReportServer
from undertow.reporting.viewing.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["browser", "context", "page"]

REQUIRE = "UNDERTOW_REQUIRE_BROWSER"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
FLAGS = [
    "--no-sandbox",  # tests run as root in containers, where Chromium's sandbox cannot start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_INSIDE = ("data", "blob", "about")


def missing() -> str:
    """Why there is no browser here, or nothing."""
    if shutil.which("chromium") is None:
        return "needs Chromium (Debian: apt-get install chromium)"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "needs the Python package playwright"
    return ""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests; skips where there is none, unless UNDERTOW_REQUIRE_BROWSER is set."""
    why = missing()
    if why:
        pytest.fail(why) if os.environ.get(REQUIRE) else pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield started
        started.close()


class Watch:
    """What went wrong in a context: errors on the console, errors of scripts, requests to elsewhere."""

    def __init__(self, context: BrowserContext) -> None:
        self.errors: list[str] = []
        self.leaving: list[str] = []
        self.home: str | None = None
        context.on("page", self._page)
        context.on("request", lambda request: self._request(request.url))

    def _page(self, page: Page) -> None:
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", lambda socket: self.leaving.append(socket.url))

    def _request(self, url: str) -> None:
        """The first address is the page's own; after it only that file, or that server."""
        here = urlsplit(url)
        if here.scheme in _INSIDE:
            return
        own = url.partition("#")[0] if here.scheme == "file" else f"{here.scheme}://{here.netloc}"
        self.home = self.home or own
        if own != self.home:
            self.leaving.append(url)

    def check(self) -> None:
        """Fail if anything was seen."""
        assert self.errors == [], f"errors in the browser: {self.errors}"
        assert self.leaving == [], f"the page asked for something else: {self.leaving}"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile, watched: the test fails at its end if a page erred or asked for anything but itself."""
    made = browser.new_context(viewport=DESKTOP, accept_downloads=False)
    made.set_default_timeout(10_000)
    watch = Watch(made)
    yield made
    made.close()
    watch.check()


def opened(page: Page, place: Path | str) -> Page:
    """Open a file or an address, and wait until its charts are drawn."""
    page.goto(place.resolve().as_uri() if isinstance(place, Path) else place)
    page.wait_for_selector("html[data-ready]")
    return page


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A tab of the watched profile."""
    return context.new_page()


@contextmanager
def serving(*folders: Path) -> Iterator[str]:
    """`undertow view` of these folders, in a thread; its address."""
    site = Site(folders)
    server = ReportServer(site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        site.close()
