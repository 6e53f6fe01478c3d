"""A headless Chromium that shows the real server's page."""

import contextlib
from pathlib import Path

import pytest

from sora_pack.scripts.environment import SetupError, chromium

# Its own lookups and updates would only knock at closed doors; --no-sandbox because root may not have one.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]

ARTIFACTS = Path(__file__).resolve().parent.parent / "artifacts"
TIMEOUT = 120_000  # milliseconds; the page is there in 4 seconds on two quiet cores
LOADED = "() => window.app?.graph && app.extensionManager?.workflow?.activeWorkflow?.isLoaded"


@pytest.fixture(scope="module")
def browser():
    """Module scope: playwright keeps an event loop running in this thread, which other tests must not find."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT)
    try:
        path = chromium()
    except SetupError as error:
        pytest.fail(str(error), pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser):
    """One profile, so that the page's scripts are fetched and compiled once; each page begins without what an earlier one left in it."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.add_init_script("localStorage.clear()")
    yield context
    context.close()


@pytest.fixture(scope="module")
def open_page(context, server):
    """A context manager: the page, loaded; uncaught errors of it fail the test."""

    @contextlib.contextmanager
    def opened():
        page, errors = context.new_page(), []
        page.set_default_timeout(TIMEOUT)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        page.wait_for_function(LOADED)
        yield page
        page.close()
        assert not errors, f"the page reported: {errors}"

    return opened


@pytest.fixture
def page(open_page):
    with open_page() as page:
        yield page


@pytest.fixture
def picture(request):
    """Save a screenshot of the page under tests/artifacts/, named by the test."""

    def save(page, name):
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{name}.png")

    return save
