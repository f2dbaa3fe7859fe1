"""How the page is shown: hostile names, a phone, a screen reader, an index in work."""

import contextlib
import importlib.util
import threading
import time
from pathlib import Path

import pytest

from ernie_vil2.commands.index import main as index
from ernie_vil2.search.collection import picture_id
from ernie_vil2.search.open import open_collection
from ernie_vil2.search.progress import progress_of
from tests.support.find_page import ATTACK, DRAWN, HOSTILE, NAMES, STATUS, look_for

COUNT = "document.getElementById('count').textContent"
pytestmark = pytest.mark.slow


def test_hostile_names_are_names(page, small):
    page.drop("#results", small[0] / HOSTILE[0])
    page.until(f"{DRAWN} > 20")
    page.run("document.getElementById('fold').click()")
    page.until(f"{DRAWN} > 20 && {STATUS}.includes('38')")
    page.run("new Promise(resolve => setTimeout(resolve, 300))")
    names = page.run(NAMES)
    assert ATTACK + ".png" in names
    assert any("␣gnp.exe␣" in name and "\n" not in name for name in names)
    page.run("document.querySelector('.tile .picture').click()")
    page.until("document.getElementById('viewer-image').naturalWidth")
    assert page.run("document.getElementById('viewer-name').textContent") in names[:6]
    page.run("document.getElementById('viewer').close()")
    words = f"{ATTACK} + {ATTACK}"
    look_for(page, words)
    page.until("document.querySelectorAll('.chip bdi').length === 2")
    assert page.run("document.querySelectorAll('main img:not(.tile img, .chip img)').length") == 0
    assert page.run("document.querySelectorAll('img[onerror], main script').length") == 0
    # the browser itself would refuse it
    blocked = (
        "(() => { try { document.body.innerHTML = '<b>'; return false } catch { return true } })()"
    )
    assert page.run(blocked)
    page.problems.clear()  # that it was refused


def test_a_phone_in_the_dark(page, browser):
    try:
        browser.screen(360, 740, phone=True, dark=True)
        look_for(page, "blue")
        assert page.run("document.documentElement.scrollWidth") == 360
        places = "[...document.querySelectorAll('.tile')].map(x => x.getBoundingClientRect().x)"
        assert page.run(f"new Set({places}).size") == 2  # columns
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
        page.run("document.querySelector('.tile .picture').click()")
        page.until("document.getElementById('viewer-image').naturalWidth")
        assert page.run("document.getElementById('viewer').scrollWidth") <= 360
    finally:
        browser.screen(1200, 900)


def test_what_is_heard(page):
    """Roles and names, as Chromium gives them to screen readers."""
    look_for(page, "white")
    told = page.accessible()
    named = {(each["role"], each["name"]) for each in told}
    assert {("search", ""), ("searchbox", "What to look for"), ("list", "Pictures found")} <= named
    assert ("heading", "Find pictures") in named and (
        "slider",
        "Hide what is less relevant than",
    ) in named
    controls = [
        each for each in told if each["role"] in ("button", "textbox", "slider", "checkbox")
    ]
    assert controls and all(each["name"] for each in controls)
    assert any(name.startswith("square.png (") and "relevance" in name for _, name in named)
    live = [each for each in told if each.get("live") == "polite"]
    assert any(each["role"] == "status" for each in live)


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(page, browser, dark):
    """The judgement of axe-core, which is not ours, on the page and on its dialogs."""
    found = importlib.util.find_spec("axe_core_python")
    if found is None:
        pytest.skip("axe-core-python is not installed")
    axe = Path(found.submodule_search_locations[0], "axe.min.js").read_text("utf-8")
    try:
        browser.screen(1200, 900, dark=dark)
        look_for(page, "white + red")
        page.run("document.getElementById('filters').open = true")
        page.run(f"{axe}; null")
        for dialog in (None, "viewer", "help"):
            if dialog == "viewer":
                page.run("document.querySelector('.tile .picture').click()")
                page.until("document.getElementById('viewer-image').naturalWidth")
            elif dialog:
                page.run("document.getElementById('viewer').close()")
                page.run(f"document.getElementById('{dialog}').showModal()")
            result = page.run("axe.run().then(x => x.violations.map(v => [v.id, v.nodes[0].html]))")
            assert result == [], dialog
    finally:
        browser.screen(1200, 900)


def test_an_index_in_work_shows(page, small, tiny_artefact, tmp_path):
    """A thousand pictures more, one at a time, so that there is time to look."""
    folder, db = small
    drawing = (folder / "blue" / "line.png").read_bytes()
    more = [tmp_path / f"{number}.png" for number in range(1000)]
    for number, path in enumerate(more):
        path.write_bytes(drawing + number.to_bytes(4, "big"))
    arguments = [str(tiny_artefact), str(tmp_path), "--db", str(db), "--batch-size", "1"]
    work = threading.Thread(target=index, args=([*arguments, "--workers", "1", "--threads", "1"],))
    with contextlib.closing(open_collection(str(db))) as reader:
        count = reader.count()
        work.start()
        while progress_of(reader) is None:
            assert work.is_alive(), "done before it could be seen"
            time.sleep(0.05)
    page.reload()
    page.until(f"/^[\\d,]+ pictures, indexing \\d+ %$/.test({COUNT})")
    page.until("document.getElementById('progress').value > 0")
    page.click("#language")
    page.until(f"/正在建立索引 \\d+ %$/.test({COUNT})")
    work.join()
    # without a reload
    page.until(f"{COUNT} === '{count + len(more):,} 张图片'")
    with contextlib.closing(open_collection(str(db), write=True)) as writer:
        writer.delete([picture_id(str(path)) for path in more])
