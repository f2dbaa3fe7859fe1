"""The demo set: emoji as four makers draw them, with names and keywords in Chinese and English.

Train on Google's and Twitter's drawings; Microsoft's choose checkpoints and settings; EmojiOne's of
2017, of the emoji there were then, are the test and choose nothing. Everything comes from five npm
packages, pinned by version and checked by digest.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ernie_vil2.data.vocab import build_vocab
from ernie_vil2.demo.npm import Package, check_given, fetch, log, read_members
from ernie_vil2.demo.pictures import FOLDER, TAGS, picture_files
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.files import durable

GOOGLE = Package(
    "emoji-datasource-google",
    "16.0.0",
    "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
)
TWITTER = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
)
FLUENT = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
EMOJIONE = Package(
    "emojione",
    "2.2.7",  # the last version with a free licence, and with drawings in the package
    "sha512-Gbf8qysc34+TFUS5HPwOUY62v8gjLuPmfVTWUR/zirULSYUe/D3MrvYo0W5Y2gScF1YI7EBe5t81IbD8q144Ag==",
)
NAMES = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
FOLDERS = {
    GOOGLE: "img/google/64/",
    TWITTER: "img/twitter/64/",
    FLUENT: "assets/",
    EMOJIONE: "assets/png/",
}
MAKERS = {GOOGLE: "google", TWITTER: "twitter", FLUENT: "fluent", EMOJIONE: "emojione"}
SPLITS = {"train": (GOOGLE, TWITTER), "val": (FLUENT,), "test": (EMOJIONE,)}

LANGUAGES = ("zh", "en")
TAG_SEPARATOR = "|"
FLUENT_SIZE = 72  # pixels; Fluent's are 256, its fellows 64
# The package has no flags of Fluent's: in their place stand Google's, which are trained on.
FLAGS_GROUP = 9
# Tag sentences are made of these, so their words belong in the vocabulary.
PROMPTS = ("该图片包含：，", "The picture contains ,")
MAX_VOCAB = 8000
MARKER = "prepared.json"


class Emoji(NamedTuple):
    """An emoji that all makers draw, but for the test's, who may lack it.

    Attributes:
        key: its code points, as in "1f600".
        group: emojibase's number of what it is among, 0 to 9.
        texts: language -> (label, tags).
    """

    key: str
    group: int
    texts: dict[str, tuple[str, list[str]]]


def prepare(
    out: str | Path,
    cache: str | Path,
    packages: str | Path | None = None,
    languages: Sequence[str] = LANGUAGES,
    limit: int | None = None,
) -> str:
    """Write train.tsv, val.tsv, test.tsv, vocab.txt, ATTRIBUTION.md and the pictures into `out`.

    Does nothing where `out` holds the same set.

    Args:
        cache: where downloads are kept.
        packages: a folder that holds the tarballs already; nothing is downloaded then.
        languages: of the names and keywords, some of LANGUAGES.
        limit: only the first so many emoji.

    Returns:
        One line that says what is there.

    Raises:
        UserError: a package cannot be had, or the set cannot be written.
    """
    out, languages = Path(out), _checked(languages)
    parameters = {
        "packages": {p.name: p.version for p in (*FOLDERS, NAMES)},
        "languages": languages,
        "limit": limit,
        "fluent_size": FLUENT_SIZE,
        "format": 3,
    }
    if done := _finished(out, parameters):
        return done
    paths = {
        package: check_given(package, Path(packages)) if packages else fetch(package, Path(cache))
        for package in (*FOLDERS, NAMES)
    }
    log("reading the packages")
    names = read_members(
        paths[NAMES], lambda name: name in {f"{language}/data.json" for language in LANGUAGES}
    )
    drawings = {package: _drawings(paths[package], package) for package in FOLDERS}
    needed = [drawings[m] for split in ("train", "val") for m in SPLITS[split]]
    emoji = _common(names, needed, languages)[:limit]

    files, texts = {}, list(PROMPTS)
    for split, makers in SPLITS.items():
        lines = list(_rows(emoji, {m: drawings[m] for m in makers}, languages))
        files[f"{split}.tsv"] = "".join(lines).encode()
        if split == "train":
            texts += _texts(lines)
    vocab = build_vocab(texts, MAX_VOCAB)
    files["vocab.txt"] = "".join(f"{token}\n" for token in vocab).encode()
    files["ATTRIBUTION.md"] = _attribution(paths).encode()
    files.update(picture_files(_named(emoji, drawings[FLUENT])))
    rows = {split: files[f"{split}.tsv"].count(b"\n") for split in SPLITS}
    summary = (
        f"{len(emoji)} emoji: {rows['train']} training rows (Google's and Twitter's drawings), "
        f"{rows['val']} validation rows (Fluent's), {rows['test']} test rows (EmojiOne's), "
        f"{len(vocab)} tokens"
    )
    _write_all(out, files, {"parameters": parameters, "summary": summary})
    return _described(out, summary)


def _checked(languages: Sequence[str]) -> list[str]:
    for language in languages:
        if language not in LANGUAGES:
            raise UserError(
                f'no emoji names in language "{language}"{did_you_mean(language, LANGUAGES)}'
            )
    return list(dict.fromkeys(languages))


def _described(out: Path, summary: str) -> str:
    files = ", ".join([*(f"{split}.tsv" for split in SPLITS), "vocab.txt", FOLDER, TAGS])
    return f"{summary}; in {out}: {files}, ATTRIBUTION.md"


def _finished(out: Path, parameters: Mapping[str, Any]) -> str:
    """The summary of what is in `out` where it is this set, whole; else nothing."""
    try:
        marker = json.loads((out / MARKER).read_text(encoding="utf-8"))
        whole = marker["parameters"] == parameters and all(
            (out / name).stat().st_size == size for name, size in marker["files"].items()
        )
        return _described(out, marker["summary"]) if whole else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_all(out: Path, files: Mapping[str, bytes], marker: Mapping[str, Any]) -> None:
    """Each file at once and the marker last, so that an interrupted run is never taken for done."""
    sizes = {name: len(content) for name, content in files.items()}
    content = json.dumps({**marker, "files": sizes}, ensure_ascii=False, indent=1).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).unlink(missing_ok=True)
        shutil.rmtree(out / FOLDER, ignore_errors=True)  # of another set, perhaps
        for name, data in {**files, MARKER: content}.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            with durable.replacing(out / name) as draft:
                draft.write_bytes(data)
    except OSError as error:
        raise UserError(f"cannot write the emoji set to {out}: {error.strerror}") from error


def _key(code: str) -> str:
    """One spelling for an emoji's code points: packages differ in case, zeros and selectors."""
    return "-".join(part.zfill(4) for part in code.lower().split("-") if part != "fe0f")


def _drawings(path: Path, package: Package) -> dict[str, bytes]:
    """Key -> encoded picture."""
    folder = FOLDERS[package]
    found = read_members(path, lambda name: name.startswith(folder))
    return {_key(Path(name).stem): data for name, data in found.items()}


def _common(
    names: Mapping[str, bytes], drawings: Iterable[Mapping[str, bytes]], languages: Sequence[str]
) -> list[Emoji]:
    """The emoji that have names and that all of `drawings` have, in Unicode's order."""
    drawings = list(drawings)
    tables = {
        language: {entry["hexcode"]: entry for entry in json.loads(names[f"{language}/data.json"])}
        for language in LANGUAGES
    }
    result = []
    for code, entry in tables["en"].items():
        key = _key(code)
        described = all(
            table.get(code, {}).get("label") and table[code].get("tags")
            for table in tables.values()
        )
        drawn = all(key in maker for maker in drawings)
        if described and drawn and entry.get("group") != FLAGS_GROUP:
            texts = {
                language: (tables[language][code]["label"], tables[language][code]["tags"])
                for language in languages
            }
            result.append((entry["order"], Emoji(key, entry.get("group", 2), texts)))
    return [found for _, found in sorted(result, key=lambda item: item[0])]


def _rows(
    emoji: Sequence[Emoji],
    drawings: Mapping[Package, Mapping[str, bytes]],
    languages: Sequence[str],
) -> Iterator[str]:
    """Rows of the official TSV, text, image id, base64, and the tags in a fourth column."""
    for key, _, texts in emoji:
        for package, images in drawings.items():
            image = images.get(key)
            if image is None:
                continue
            if package is FLUENT:
                image = _smaller(image)
            encoded = base64.b64encode(image).decode()
            for language in languages:
                label, tags = texts[language]
                yield f"{label}\t{MAKERS[package]}/{key}\t{encoded}\t{TAG_SEPARATOR.join(tags)}\n"


def _named(
    emoji: Iterable[Emoji], drawings: Mapping[str, bytes]
) -> Iterator[tuple[int, str, list[str], bytes]]:
    """Group, name, tags in all languages and file of each drawing."""
    for key, group, texts in emoji:
        label = texts.get("en", next(iter(texts.values())))[0]
        tags = [tag for _, words in texts.values() for tag in words]
        yield group, label, tags, drawings[key]


def _texts(lines: Iterable[str]) -> Iterator[str]:
    """Captions and tags of rows."""
    for line in lines:
        columns = line.rstrip("\n").split("\t")
        yield from (columns[0], *columns[3].split(TAG_SEPARATOR))


def _smaller(encoded: bytes) -> bytes:
    """A picture with alpha at FLUENT_SIZE, as PNG."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None and image.shape[2:] == (4,), "the digest was right, so it decodes"
    # weighted by alpha, or the colour of invisible pixels would leak into the edges
    alpha = image[..., 3:].astype(np.float32)
    weighted = np.concatenate([image[..., :3] * alpha, alpha], axis=2)  # [H, W, 4]
    small = cv2.resize(weighted, (FLUENT_SIZE, FLUENT_SIZE), interpolation=cv2.INTER_AREA)
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return cv2.imencode(".png", np.rint(small).clip(0, 255).astype(np.uint8))[1].tobytes()


def _is_about(name: str) -> bool:
    return re.fullmatch(r"(LICENSE|README|package)(\.\w+)?", name) is not None


def _attribution(paths: Mapping[Package, Path]) -> str:
    """Whose the drawings and words are, under which terms, in the packages' own words."""
    about = {
        GOOGLE: ("Noto Emoji drawings by Google, unchanged", r"Noto"),
        TWITTER: ("Twemoji drawings by Twitter and contributors, unchanged", r"Twemoji|Twitter im"),
        FLUENT: (
            f"Fluent Emoji drawings by Microsoft, as they are in {FOLDER}, and scaled down to "
            f"{FLUENT_SIZE} px and stored as PNG in val.tsv",
            r"from Microsoft|is \[MIT\]",
        ),
        EMOJIONE: ("EmojiOne drawings, unchanged", None),
        NAMES: ("names and keywords in Chinese and English, unchanged", None),
    }
    parts = ["# Where the emoji set comes from, and its licences\n"]
    for package, path in paths.items():
        what, pattern = about[package]
        about_it = read_members(path, _is_about)
        texts = {name: data.decode("utf-8") for name, data in about_it.items()}
        manifest = json.loads(texts["package.json"])
        readme = texts["README.md"].splitlines() if pattern else []
        terms = manifest.get("license") or manifest["licenses"]["type"]
        quotes = [line for line in readme if pattern and re.search(pattern, line)]
        parts.append(f"## {package.name} {package.version}: {what}\n")
        parts.append(
            f"- author: {manifest['author']}\n- licence of the package: {terms}\n"
            f"- repository: {manifest['repository']['url']}\n- digest: {package.integrity}\n"
        )
        if quotes:
            parts.append(
                "Its README says:\n\n" + "\n>\n".join(f"> {line}" for line in quotes) + "\n"
            )
        for name in sorted(name for name in texts if name.startswith("LICENSE")):
            parts.append(f"Its {name}:\n\n```\n{texts[name].strip()}\n```\n")
    return "\n".join(parts)
