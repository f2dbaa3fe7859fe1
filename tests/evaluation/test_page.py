"""The page of a report, read by an HTML parser and by Chromium."""

import base64
import io
import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ernie_vil2.evaluation.examples import ImageQuery, Result, TextQuery
from ernie_vil2.evaluation.page import write_page
from tests.support.browser import rendered
from tests.support.paths import ROOT

ATTACK = "<script>document.title='hacked'</script><img src=x onerror=\"alert('&')\">"


def file_bytes(mode="RGB", kind="PNG", size=(200, 120)) -> bytes:
    """A red picture as the bytes of an image file."""
    if mode == "I;16":
        image = Image.fromarray(np.full(size[::-1], 40000, np.uint16))
    else:
        colour = {"CMYK": (0, 255, 255, 0), "RGBA": (255, 0, 0, 128), "L": 90}
        image = Image.new(mode, size, colour.get(mode, (255, 0, 0)))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def examples(picture: bytes) -> list:
    return [
        TextQuery(
            "一只橘猫坐在窗台上",
            [Result("猫 <b>", 0.91, True, picture), Result("狗", 0.5, False, b"no image")],
        ),
        TextQuery(ATTACK, [Result(ATTACK, -0.25, False, picture)], rank=56),
        ImageQuery(picture, [Result("窗台上的猫", 0.8, True), Result(ATTACK, 0.7, False)], rank=0),
        ImageQuery(b"", [Result("a" * 400, 0.8, False)]),
    ]


class Page(HTMLParser):
    """Tags with their attributes, and all text outside <style>."""

    def __init__(self, text: str):
        super().__init__()
        self.source, self.tags, self.text = text, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] != "style":
            self.text += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture
def page(tmp_path, report):
    path = tmp_path / "new" / "page.html"
    write_page(path, "Emoji & 表情", report, examples(file_bytes()))
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]  # no draft is left
    return Page(path.read_text("utf-8"))


def test_the_page_needs_nothing_from_outside(page):
    assert not page.all("script") and not page.all("link")
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert len(policies) == 1 and "default-src 'none'" in policies[0]
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_captions_are_text_and_never_markup(page):
    assert page.text.count(ATTACK) == 3
    assert "Emoji & 表情" in page.text
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert ATTACK in [image["alt"] for image in page.all("img")]


HOSTILE = [
    "{{ 7 * 7 }} {% raw %} {# a #}",
    "]]></style></title><!--",
    "\u202ea\u200f \u2067b",
    "\"'`&lt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_no_template_and_ends_no_element(tmp_path, report, text):
    path, picture = tmp_path / "page.html", file_bytes()
    queries = [
        TextQuery(text, [Result(text, 0.5, True, picture)]),
        ImageQuery(picture, [Result(text, 0.5, True)]),
    ]
    write_page(path, text, report, queries)
    page = Page(path.read_text("utf-8"))
    assert page.text.count(text) == 5  # the title, the heading, one query, two results
    assert text in [image["alt"] for image in page.all("img")]
    assert len(page.all("bdi")) == 4 and len(page.all("li")) == 2


def test_only_the_page_needs_the_template_engine():
    code = (
        "import sys, ernie_vil2.serving.predictor, ernie_vil2.evaluation.embed\n"
        "from ernie_vil2.commands import eval, export, serve\n"
        "assert 'jinja2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_right_results_are_marked_in_words_and_border(page):
    assert [li["class"] for li in page.all("li")] == [
        "right", "other", "other", "right", "other", "other"
    ]  # fmt: skip
    assert page.text.count("✓ right") == 2
    assert "the first right one is in place 57" in page.text
    assert page.text.count("the first right one") == 1  # not where it is shown


def test_chinese_text_is_declared(page):
    assert "一只橘猫坐在窗台上" in page.text
    assert {"charset": "utf-8"} in page.all("meta")
    assert [each.get("lang") for each in page.all("bdi")][:4] == ["zh-Hans"] * 4
    assert page.all("html") == [{"lang": "en"}]


def test_the_table_of_the_page_tells_the_report(page, report):
    for direction in ("text_to_image", "image_to_text"):
        for name in ("R@1", "R@5", "R@10", "mean_recall"):
            low, high = (f"{100 * end:.1f}" for end in report[direction]["interval"][name])
            assert f"{100 * report[direction][name]:.1f} %95 %: {low}–{high}" in page.text
    assert f"both directions: {100 * report['mean_recall']:.1f} %" in page.text
    assert "protocol: strict" in page.text
    assert f"MRR{report['text_to_image']['mrr']:.3f}" in page.text


@pytest.mark.parametrize(
    "mode, kind",
    [
        ("RGB", "WEBP"),
        ("RGBA", "WEBP"),
        ("RGBA", "PNG"),
        ("I;16", "PNG"),
        ("CMYK", "JPEG"),
        ("L", "PNG"),
    ],
)
def test_every_kind_of_image_becomes_a_small_jpeg(tmp_path, report, mode, kind):
    path = tmp_path / "page.html"
    write_page(path, "t", report, [ImageQuery(file_bytes(mode, kind), [])])
    (image,) = Page(path.read_text("utf-8")).all("img")
    jpeg = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
    assert (jpeg.format, jpeg.size) == ("JPEG", (128, 77))
    expected = {"RGBA": (255, 127, 127), "I;16": (156,) * 3, "L": (90,) * 3}.get(mode, (255, 0, 0))
    difference = np.abs(np.array(jpeg.convert("RGB")).astype(int)[40, 60] - expected)
    assert difference.max() <= 6


@pytest.mark.parametrize("data", [b"", b"not an image", file_bytes()[:60], None])
def test_what_cannot_be_decoded_gets_a_placeholder(tmp_path, report, data):
    path = tmp_path / "page.html"
    write_page(path, "t", report, [TextQuery("cat", [Result("cat", 0.5, True, data)])])
    page = Page(path.read_text("utf-8"))
    assert not page.all("img") and "picture cannot be read" in page.text


@pytest.mark.parametrize("size, shown", [((40, 30), (40, 30)), ((3000, 2), (128, 1))])
def test_thumbnails_are_never_enlarged_nor_empty(tmp_path, report, size, shown):
    path = tmp_path / "page.html"
    write_page(path, "t", report, [ImageQuery(file_bytes(size=size), [])])
    (image,) = Page(path.read_text("utf-8")).all("img")
    assert Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))).size == shown


def test_a_caption_without_utf8_does_not_stop_the_page(tmp_path, report):
    path = tmp_path / "page.html"
    write_page(path, "t", report, [TextQuery("a\ud800b", [])])
    assert "a?b" in path.read_text("utf-8")


MEASURE = """<!DOCTYPE html><title></title><iframe style="width: %dpx; height: 900px"></iframe>
<script type="application/json">%s</script><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  document.title = JSON.stringify({
    width: root.clientWidth, scroll: root.scrollWidth, title: page.title,
    blank: [...page.images].filter(image => !image.naturalWidth).length,
    border: getComputedStyle(page.querySelector("li.right")).borderTopWidth,
  });
};
frame.srcdoc = JSON.parse(document.querySelector("script").textContent);
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_the_page_without_sideways_scroll(tmp_path, report, width):
    title = "Emoji & 表情"
    path, measure = tmp_path / "page.html", tmp_path / "measure.html"
    write_page(path, title, report, examples(file_bytes()))
    text = json.dumps(path.read_text("utf-8")).replace("<", "\\u003c")
    measure.write_text(MEASURE % (width, text), "utf-8")  # a frame: windows have a least width
    dom = rendered(measure.as_uri(), tmp_path / "profile")
    seen = json.loads(unescape(re.search("<title>(.*?)</title>", dom).group(1)))
    assert seen["scroll"] <= seen["width"]
    assert width - 30 < seen["width"] <= width
    assert (seen["title"], seen["blank"], seen["border"]) == (title, 0, "3px")
