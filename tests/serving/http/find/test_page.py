"""The page in a real Chromium: what a person does there, and what they see and hear of it."""

import json
from pathlib import Path

import pytest

from tests.support.find_page import DRAWN, NAMES, STATUS, TILES, look_for

pytestmark = pytest.mark.slow


def test_words_in_both_languages(page, find_server):
    assert page.run("document.title") == "Find pictures"
    look_for(page, "a red circle")
    body = {"query": "a red circle", "k": 100}
    answer = find_server.http.post("/v1/search", json=body).json()
    names = [Path(hit["path"]).name for hit in answer["hits"]]
    shown = page.run(NAMES)
    assert [name for name in shown if "\u2423" not in name] == [
        name for name in names[: len(shown)] if name.isprintable()
    ]
    assert page.run(STATUS).startswith(f"{answer['line']} of {answer['total']} are likely")
    line = page.run("document.querySelector('.divider')?.textContent ?? null")
    assert line == (
        None if answer["line"] == answer["total"] else "Probably not what is looked for"
    )
    page.click("#language")
    page.until("document.title === '找图' && document.documentElement.lang === 'zh-Hans'")
    assert f"{answer['total']} 张中有 {answer['line']} 张很可能符合" in page.run(STATUS)
    look_for(page, "红色的圆")
    page.reload()
    page.until(f"document.title === '找图' && {DRAWN} > 3")  # the language and the query stay
    assert page.run("document.getElementById('words').value") == "红色的圆"
    page.run("history.back()")
    page.until("document.getElementById('words').value === 'a red circle'")


def test_the_browsers_language_is_the_first(page, find_server):
    page.language("zh-TW")
    page.open(f"{find_server.http.base_url}/?")
    page.until("document.getElementById('go').textContent === '搜索'")
    assert page.run("document.getElementById('words').placeholder") == "海边的猫"


def test_pictures_dropped_pasted_and_combined(page, small):
    square = small[0] / "white" / "square.png"
    page.drop("#results", square)
    page.until(f"{DRAWN} > 3")
    assert page.run(NAMES)[0] == "square.png"
    first = "document.querySelector('.tile .picture').title"
    assert page.run(first) == str(square)
    assert page.run("document.querySelectorAll('.chip img').length") == 1
    page.run("document.getElementById('words').focus()")
    page.type("red - circle")
    page.press("Enter")
    page.until("document.querySelectorAll('.chip').length === 3 && location.hash.includes('red')")
    page.until("document.querySelectorAll('.chip.minus').length === 1")
    page.click(".chip:nth-child(2) .sign")  # "red" is to be avoided
    page.until("document.getElementById('words').value === '- red - circle'")
    page.click(".chip:nth-child(1) button:last-child")
    page.until("document.querySelectorAll('.chip').length === 2")
    page.run("document.getElementById('words').value = ''")
    page.run(
        "(async () => { const image = document.querySelector('.tile img');"
        "const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);"
        "canvas.getContext('2d').drawImage(image, 0, 0);"
        "const png = await canvas.convertToBlob({type: 'image/png'});"
        "await navigator.clipboard.write([new ClipboardItem({'image/png': png})]); })()"
    )
    page.paste()
    page.until(f"document.querySelectorAll('.chip img').length === 1 && {DRAWN} > 3")
    page.drop("#results", small[1] / "collection.json")
    page.until("document.getElementById('error').textContent.includes('is no picture')")


def test_filters_and_the_slider(page, small):
    look_for(page, "red")
    page.click("#filters summary")
    page.click("#tag")
    page.type("circle")
    page.press("Enter")
    page.until(f"document.querySelectorAll('#chosen-tags li').length === 1 && {TILES} === 4")
    assert set(page.run(NAMES)) == {"circle.png"}
    page.click("#folder")
    page.type(str(small[0] / "blue"))
    page.press("Enter")
    page.until(f"{TILES} === 1")
    assert page.run("document.getElementById('filter-count').textContent") == "(2)"
    page.reload()  # the address has them
    page.until(f"{TILES} === 1 && document.querySelectorAll('#chosen-tags li').length === 1")
    page.run("document.getElementById('filters').open = true")
    page.run(
        "(() => { const day = document.getElementById('before'); day.value = '1999-12-31';"
        "day.dispatchEvent(new Event('change')); })()"
    )
    page.until(f"{STATUS} === 'No picture passes these filters.' && {TILES} === 0")
    page.click("#clear")
    page.until(f"{TILES} > 20")
    every = page.run("document.querySelector('.tile').getAttribute('aria-setsize')")
    page.run(
        "(() => { const slider = document.getElementById('relevance'); slider.value = 40;"
        "slider.dispatchEvent(new Event('input')); })()"
    )
    page.until(f"/^\\d+ of {every} are shown|^All {every} are less/.test({STATUS})")
    scores = page.run(
        "[...document.querySelectorAll('.tile .caption span')].map(each => each.textContent)"
    )
    assert all(int(score.split("·")[1].rstrip(" %")) >= 40 for score in scores)


def test_the_keyboard_is_enough(page):
    look_for(page, "green")
    page.press("Escape")
    assert page.run("document.activeElement.id") == ""
    page.press("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft")
    focused = "Number(document.activeElement.parentElement.getAttribute('aria-posinset'))"
    columns = page.run("Math.round(document.getElementById('results').clientWidth / 172)")
    assert page.run(focused) == 2 + columns
    path = page.run("document.activeElement.title")
    page.press("Enter")
    page.until("document.getElementById('viewer-image').naturalWidth === 40")
    assert page.run("document.querySelector('#viewer-facts dd').textContent") == path
    page.press("c")
    page.until("document.getElementById('viewer-said').textContent === 'Path copied'")
    assert page.run("navigator.clipboard.readText()") == path
    page.press("ArrowRight")
    page.until(f"document.querySelector('#viewer-facts dd').textContent !== {json.dumps(path)}")
    page.press("Escape")
    page.until("!document.getElementById('viewer').open")
    page.until(f"{focused} === {3 + columns}")  # where one has got to
    page.press("m")
    page.until(f"location.hash.startsWith('#like=') && {DRAWN} > 3")
    page.press("/")
    assert page.run("document.activeElement.id") == "words"
    page.press("Escape", "?")
    page.until("document.getElementById('help').open")
    page.press("Escape")
    page.until("!document.getElementById('help').open")


def test_who_types_on_as_the_viewer_closes_keeps_the_focus(page):
    look_for(page, "green")
    page.run("document.querySelector('.tile .picture').click()")
    page.until("document.getElementById('viewer-image').naturalWidth")
    # the page is told of it in a later task
    page.run(
        "new Promise(told => { const viewer = document.getElementById('viewer');"
        "viewer.addEventListener('close', () => requestAnimationFrame(told), {once: true});"
        "viewer.close(); document.getElementById('words').focus() })"
    )
    assert page.run("document.activeElement.id") == "words"


def test_folded_ones_can_be_seen(page, small):
    page.drop("#results", small[0] / "red" / "square.png")
    page.until(f"{DRAWN} > 3 && !!document.querySelector('.tile .twins')")
    assert page.run("document.querySelector('.tile .twins').textContent") == "+1"
    page.click(".tile .twins")
    page.until("document.querySelectorAll('#twins-list img[src]').length === 1")
    first = page.run("document.getElementById('viewer-name').textContent")
    page.click("#twins-list button")
    page.until(f"document.getElementById('viewer-name').textContent !== {json.dumps(first)}")
    other = page.run("document.getElementById('viewer-name').textContent")
    assert {first, other} == {"square.png", "copy of square.png"}
    page.press("Escape")
