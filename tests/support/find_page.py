"""What tests of the page that searches look at, and the names of files that are made to do harm."""

from tests.support.chromium import Browser

ATTACK = "<img src=x onerror=alert(1)>"
HOSTILE = [
    f"{ATTACK}.png",
    "<script>alert(2)<{}script>.png".format("\\"),
    "line\nbreak\tand \u202egnp.exe\u2066.png",
    "&lt;b&gt;\"'` onload=alert(3) ${7*7} {{7*7}}.png",
    "javascript:alert(4).png",
]
TILES = "document.querySelectorAll('.tile').length"
DRAWN = "document.querySelectorAll('.tile img[src]').length"
NAMES = "[...document.querySelectorAll('.tile .name')].map(each => each.textContent)"
STATUS = "document.getElementById('status').textContent"


def look_for(page: Browser, words: str) -> None:
    page.run("document.getElementById('words').focus(); document.getElementById('words').select()")
    page.type(words)  # over what was there
    page.press("Enter")
    page.until(f"location.hash.includes('q=') && {DRAWN} > 3")
