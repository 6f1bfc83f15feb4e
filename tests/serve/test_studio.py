"""The studio in a browser: speak with two arms, vote blind, add a voice, read a refusal.

``WISHBONE_STUDIO_PICTURES=FOLDER`` keeps pictures of it, light and dark.
"""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from real_server import ARMS, running

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not BROWSER, reason="a Chromium browser")
PICTURES = os.environ.get("WISHBONE_STUDIO_PICTURES")
FLAGS = (
    "--no-sandbox", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
)  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running(tmp_path_factory.mktemp("studio"), *ARMS) as server:
        yield server.url


@pytest.fixture(params=[(390, 844), (1280, 800)], ids=["phone", "desk"])
def page(request, address):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        width, height = request.param
        page = browser.new_page(viewport={"width": width, "height": height})
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(address)
        until(page, "document.querySelectorAll('#first option').length == 2")
        yield page
        browser.close()


def until(page, script, seconds=60):
    """Wait for a condition; the page's policy forbids the driver's own way to wait."""
    end = time.monotonic() + seconds
    while not page.evaluate(script):
        assert time.monotonic() < end, page.inner_text("body")
        time.sleep(0.1)


def picture(page, name):
    """Keep the page as it looks now, light and dark."""
    if PICTURES:
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            time.sleep(0.3)  # canvases are drawn again
            path = Path(PICTURES) / f"{name}-{page.viewport_size['width']}-{scheme}.png"
            page.screenshot(path=path, full_page=True)


def status(page):
    return page.inner_text("#status")


def test_a_person_speaks_votes_and_adds_a_voice(page):
    page.select_option("#second", ARMS[1])
    page.click("#go")
    until(page, "document.querySelectorAll('.take a[href]').length == 2")
    assert re.findall(r"(\S+): first sound after \d+ ms", status(page)) == list(ARMS)
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x > 200)"
    for canvas in page.locator(".take canvas").all():
        assert canvas.evaluate(drawn)
    picture(page, "spoken")

    page.click("#blind")
    page.wait_for_selector("#vote:not([hidden])")
    assert all(arm not in page.inner_text("#vote") for arm in ARMS)
    picture(page, "blind")
    page.keyboard.press("1")
    assert page.is_disabled("[data-vote=same]")  # the second was not heard
    page.keyboard.press("2")
    page.keyboard.press("s")
    until(page, "document.querySelector('#status').textContent.startsWith('Thank you')")
    assert page.is_hidden("#vote")
    until(page, f"document.querySelector('#tally').innerText.includes('{' and '.join(ARMS)}')")

    name = f"me-{page.viewport_size['width']}"
    page.evaluate("document.querySelector('#voices').open = true")
    page.click("#record")
    time.sleep(2)
    page.click("#record")
    page.wait_for_selector("#recorded:not([hidden])")
    page.fill("#name", name)
    page.fill("#transcript", "")
    page.evaluate("document.querySelector('#add').noValidate = true")
    page.click("#add button[type=submit]")
    page.wait_for_selector("#message:not([hidden])")
    assert "transcript" in page.inner_text("#message")
    # what is said of a form far below can be seen without scrolling, and so can all votes
    box = page.locator("#message").bounding_box()
    assert 0 <= box["y"] and box["y"] + box["height"] <= page.viewport_size["height"]
    assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.scroll'))")
    picture(page, "voice")
    # the layout holds at this width, and nothing was thrown
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.errors == []


def test_a_refusal_is_a_sentence_and_leaves_no_empty_card(page):
    page.fill("#seed", "-1")
    page.evaluate("document.querySelector('#speak').noValidate = true")
    page.click("#go")
    page.wait_for_selector("#message:not([hidden])")
    assert "seed" in page.inner_text("#message") and page.locator(".take").count() == 0
    page.fill("#seed", "1")
    page.fill("#text", "one two three four five six " * 20)
    page.click("#go")
    page.click("#stop")
    until(page, "document.querySelector('#status').textContent == 'Stopped.'")
    assert page.errors == []
