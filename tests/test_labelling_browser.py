"""The labelling page in a browser; needs playwright and a Chromium."""

import shutil

import numpy as np
import pytest
from test_labelling_page import SCRIPT, TEXTS, text_learner

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def progress(tab, text):
    """Wait until the page says how far it is."""
    sync_api.expect(tab.locator("#progress")).to_contain_text(text, timeout=20_000)


@pytest.fixture
def browser():
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.slow
def test_label_undo_reload_and_resume(browser, tmp_path):
    path = tmp_path / "labels.sqlite"
    learner = text_learner().open_store(path)
    with learner.serve() as server:
        tab = browser.new_page(viewport={"width": 900, "height": 800})
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        tab.goto(server.url)
        for number in range(10):
            progress(tab, f"{4 + number} of")
            shown = tab.inner_text("#item")
            assert shown in TEXTS
            tab.keyboard.press("2" if "good" in shown else "1")
        progress(tab, "14 of")
        assert learner.n_answers_ == 10
        tab.screenshot(path=str(tmp_path / "page.png"))
        tab.keyboard.press("Backspace")
        progress(tab, "13 of")
        assert tab.inner_text("#item") == shown
        tab.reload()
        progress(tab, "13 of")
        before = tab.inner_text("#item")
        tab.keyboard.press(" ")
        progress(tab, "1 skipped")
        assert tab.inner_text("#item") != before
        tab.click("#classes button")
        progress(tab, "14 of")
        assert tab.title() == "Labels"
        assert errors == []
        wrong = server.url.replace(server.token, "x" * len(server.token))
        assert tab.goto(wrong).status == 403
    resumed = text_learner().open_store(path)
    assert resumed.n_answers_ == 10
    with resumed.serve(show=lambda i: SCRIPT) as server:
        tab = browser.new_page()
        tab.goto(server.url)
        progress(tab, "14 of")
        assert tab.inner_text("#item") == SCRIPT
        assert tab.locator("#item b").count() == 0
        assert tab.title() == "Labels"
    np.testing.assert_array_equal(resumed.labels_ == None, learner.labels_ == None)  # noqa: E711
