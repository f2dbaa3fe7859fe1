"""A retrieval report as one HTML file: the table, and pictures and texts that were found."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from html import escape

import cv2

from ernie_vil2.data.transforms import ImageError, decode_image
from ernie_vil2.evaluation.examples import ImageQuery, Result, TextQuery
from ernie_vil2.evaluation.report import (
    DIRECTIONS,
    number,
    number_names,
    percent,
    recall_cells,
    recall_names,
    remarks,
    spoken,
    write_text,
)

_THUMBNAIL = 128  # pixels of the longer side


def write_page(
    path: str | os.PathLike,
    title: str,
    report: dict,
    queries: Iterable[TextQuery | ImageQuery],
) -> None:
    """One HTML file that needs no other: the recall table, then queries with what they found.

    Pictures are embedded as JPEG of at most 128 pixels; one that cannot be decoded gets a
    placeholder. The file appears whole or not at all.
    """
    queries = list(queries)
    body = [f"<h1>{_inline(title)}</h1>", _table(report)]
    for kind, heading, card in (
        (TextQuery, "Text to image: the best pictures for a text", _text_card),
        (ImageQuery, "Image to text: the best texts for a picture", _image_card),
    ):
        cards = [card(query) for query in queries if isinstance(query, kind)]
        if cards:
            body += [f"<h2>{heading}</h2>", *cards]
    write_text(path, _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(body)))


def _table(report: dict) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", *DIRECTIONS.values()))
    rows = []
    for name in recall_names(report):
        row = f'<th scope="row">{spoken(name)}</th>'
        for direction in DIRECTIONS:
            recall, interval, chance = (
                escape(cell) for cell in recall_cells(report[direction], name)
            )
            interval = f"<small>95 %: {interval.replace('-', '–')}</small>" if interval else ""
            row += f"<td><b>{recall} %</b>{interval}<small>chance: {chance}</small></td>"
        rows.append(row)
    for name in number_names(report):
        cells = "".join(f"<td>{number(report[direction][name])}</td>" for direction in DIRECTIONS)
        rows.append(f'<th scope="row">{spoken(name)}</th>{cells}')
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    both = f"Mean recall of both directions: <b>{escape(percent(report['mean_recall']))} %</b>"
    both = "<br>".join([both, *map(escape, remarks(report))])
    return (
        f"<p>{both}</p>\n<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    )


def _text_card(query: TextQuery) -> str:
    found = "".join(
        f'<li class="{_kind(each)}">{_picture(each.image, each.label)}'
        f"{_score(place, each)}<span>{_inline(each.label)}</span></li>\n"
        for place, each in enumerate(query.results, 1)
    )
    return (
        f'<article><p class="query">{_inline(query.text)}</p>{_missed(query)}'
        f'<ol class="pictures">{found}</ol></article>'
    )


def _image_card(query: ImageQuery) -> str:
    found = "".join(
        f'<li class="{_kind(each)}"><span>{_inline(each.label)}</span>{_score(place, each)}</li>\n'
        for place, each in enumerate(query.results, 1)
    )
    return (
        f'<article class="side"><div class="query">{_picture(query.image, "query")}</div>'
        f'<div>{_missed(query)}<ol class="texts">{found}</ol></div></article>'
    )


def _kind(result: Result) -> str:
    return "right" if result.right else "other"


def _score(place: int, result: Result) -> str:
    mark = '<b class="mark">✓ right</b>' if result.right else ""
    return f"<small>{place}. &nbsp;{result.score:.3f} {mark}</small>"


def _missed(query: TextQuery | ImageQuery) -> str:
    if query.rank is None or any(each.right for each in query.results):
        return ""
    return f'<p class="missed">✗ the first right one is in place {query.rank + 1}</p>'


def _inline(text: str) -> str:
    """Escaped, with its language, by which a browser chooses between the scripts' fonts."""
    lang = ' lang="zh-Hans"' if re.search(r"[\u3400-\u9fff]", text) else ""
    return f'<bdi dir="auto"{lang}>{escape(text)}</bdi>'


def _picture(data: bytes | None, label: str) -> str:
    try:
        jpeg = _thumbnail(data or b"")
    except ImageError:
        return '<div class="missing">picture cannot be read</div>'
    source = base64.b64encode(jpeg).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{source}" alt="{escape(label)}">'


def _thumbnail(data: bytes) -> bytes:
    image = decode_image(data, min_size=_THUMBNAIL)
    height, width = image.shape[:2]
    scale = min(1, _THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return jpeg.tobytes()


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1c2230; --soft: #586174;
  --line: #d5d9e1; --right: #12733a; --missed: #a3341f; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171d; --card: #1e232c; --ink: #e6e9ef; --soft: #a3acbd; --line: #3a4250;
    --right: #5fd08b; --missed: #f2977f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 1rem/1.45 system-ui, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC",
  "Source Han Sans SC", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
small { color: var(--soft); font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; background: var(--card); }
th, td { border: 1px solid var(--line); padding: .4rem .7rem; text-align: left; }
th { overflow-wrap: normal; } th[scope=row] { font-weight: 500; }
td { font-variant-numeric: tabular-nums; } td small { display: block; white-space: nowrap; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem; margin: .8rem 0; }
article p { margin: 0 0 .6rem; }
p.query { font-size: 1.1rem; font-weight: 600; }
.missed { color: var(--missed); font-size: .85rem; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); }
li { border: 1px solid var(--line); border-radius: .4rem; padding: .4rem; display: flex;
  flex-direction: column; gap: .2rem; font-size: .85rem; }
li.right { border: 3px solid var(--right); padding: calc(.4rem - 2px); }
.mark { color: var(--right); white-space: nowrap; }
.side { display: grid; grid-template-columns: 8rem 1fr; gap: .8rem; align-items: start; }
.texts li { flex-direction: row; justify-content: space-between; gap: .8rem; font-size: .95rem; }
.texts small { flex: none; }
img, .missing { display: block; width: 100%; max-width: 8rem; aspect-ratio: 1; object-fit: contain;
  margin: 0 auto; }
.side img { object-position: top; }
.missing { display: grid; place-items: center; text-align: center; padding: .5rem;
  color: var(--soft); border: 1px dashed var(--soft); font-size: .8rem; }
@media (max-width: 34rem) {
  .side { grid-template-columns: 5rem 1fr; } .texts li { flex-direction: column; gap: 0; }
  table { font-size: .9rem; } th, td { padding: .35rem .45rem; } }
"""
