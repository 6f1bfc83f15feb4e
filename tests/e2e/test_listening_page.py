"""A browser goes through the listening page: play, vote, reload, finish; a verdict follows."""

import json
import re
import shutil
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from wishbone.core.cli import main
from wishbone.core.evaluate.listening.collector import Collector

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from listening_toys import make, page_of  # noqa: E402

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright")
pytest.importorskip("jinja2", reason="install the extra: pip install wishbone-tts[ab]")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not BROWSER, reason="a Chromium browser")
SIZES = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1280, "height": 800}}
HEARD = re.compile(r"\bheard\b")
WAIT = 30_000
"""Milliseconds after which something will not come any more."""


@contextmanager
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def serving(folder, results):
    with Collector(folder, results) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def begin(page):
    assert page.is_disabled("#begin")
    page.select_option("#device", "headphones")
    page.check("#consent")
    page.click("#begin")


def until(locator):
    """What is expected of a part of the page, sooner or later.

    A function that is waited for is asked again by eval, which the page's policy forbids.
    """
    return playwright.expect(locator)


def play_all(page):
    """Play every clip to its end, four times as fast as a person would."""
    page.evaluate("for (const sound of players.values()) sound.playbackRate = 4")
    for place in range(page.locator(".clip").count()):
        assert page.is_disabled("#next")
        page.locator(".clip").nth(place).click()
        until(page.locator(".clip").nth(place)).to_have_class(HEARD, timeout=WAIT)


def vote(page, design):
    """Answer by keys, or by the sliders: the spoilt clip cannot be seen, so all alike."""
    if design == "mushra":
        for place in range(page.locator(".slider input").count()):
            page.locator(".slider input").nth(place).fill(str(30 + 10 * place))
    else:
        page.keyboard.press("2")


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("design", ["ab", "mushra"])
def test_a_listener_plays_votes_reloads_and_finishes(tmp_path, design, size):
    written, key = make(tmp_path, design=design, items=2, catch=1, training=1, listeners=2)
    errors, requests = [], []
    with serving(written.folder, tmp_path / "test-answers") as server, browser() as opened:
        page = opened.new_context(viewport=SIZES[size]).new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(server.address)
        assert "listener=1" in page.url and fits(page)
        begin(page)
        assert "does not count" in page.inner_text("#practice")
        steps = 0
        while page.is_visible("#trial"):
            assert fits(page)
            if design == "ab":
                assert page.evaluate("document.getElementById('answers').disabled")
                page.keyboard.press("1")
                assert page.locator(".option input:checked").count() == 0, "not before all is heard"
            play_all(page)
            vote(page, design)
            if steps == 2:
                before = page.inner_text("#place")
                page.reload()
                assert page.inner_text("#place") == before and page.is_enabled("#next")
            page.click("#next")
            steps += 1
        assert steps == 4
        page.click("#finish")
        until(page.locator("#sent")).to_contain_text("arrived", timeout=WAIT)
        with page.expect_download() as download:
            page.click("#csv")
        table = Path(download.value.path()).read_text().splitlines()
        page.reload()
        assert page.is_visible("#end"), "a finished test stays finished"
    (path,) = (tmp_path / "test-answers").iterdir()
    stored = json.loads(path.read_text())
    assert stored["complete"] and len(stored["answers"]) == 3 and len(table) == 4
    for answer, trial in zip(stored["answers"], page_of(written)["forms"][0], strict=True):
        assert answer["trial"] == trial["trial"] and answer["clips"] == trial["clips"]
        assert min(answer["played"]) == 1 and min(answer["plays"]) >= 1
    assert errors == [] and all(url.startswith(server.address) for url in requests)
    if design == "ab":
        assert {answer["answer"] for answer in stored["answers"]} == {"same"}
        assert main.main(["listen", "analyze", str(written.folder)]) == 0


@pytest.mark.parametrize("design", ["cmos", "abx", "mos"])
def test_the_folder_works_from_a_disk_and_by_keys_alone(tmp_path, design):
    written, _ = make(tmp_path, design=design, items=2, catch=0, training=0, listeners=1)
    with browser() as opened:
        page = opened.new_context(viewport=SIZES["phone"]).new_page()
        page.goto(f"file://{written.folder}/index.html?listener=1")
        begin(page)
        page.evaluate("document.activeElement.blur()")
        while page.is_visible("#trial"):
            assert fits(page)
            for letter in {"cmos": "ab", "abx": "abx", "mos": "a"}[design]:
                page.keyboard.press(letter)
                clip = page.locator(f".clip[data-key={letter}]")
                until(clip).to_have_class(HEARD, timeout=WAIT)
            page.keyboard.press("2")
            page.keyboard.press("Enter")
        page.click("#finish")
        assert "download" in page.inner_text("#sent")
        with page.expect_download() as download:
            page.click("#json")
        answers = json.loads(Path(download.value.path()).read_text())["answers"]
    expected = {"cmos": 2, "abx": "b", "mos": 2}[design]
    assert {answer["answer"] for answer in answers} == {expected}
