"""The documents are of this tree: their links, paths, keys and commands, in both languages."""

import re

import pytest
import yaml

from tests.support.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PAIRS = {
    ROOT / "README.md": ROOT / "README_zh.md",
    ROOT / "CONTRIBUTING.md": ROOT / "docs/contributing_zh.md",
    **{p: p.with_name(f"{p.stem}_zh.md") for p in PAGES if p.parent.name == "docs"},
}
ENGLISH = [page for page in PAIRS if not page.stem.endswith("_zh")]
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
ROOMS = {p.name for p in (ROOT / "ernie_vil2").iterdir() if p.is_dir() and p.name[0] != "_"}
TOPS = {"ernie_vil2", "configs", "docs", "tests", "tools"}
PATH = re.compile(r"(?<![\w./-])[\w.-]+/[\w./-]*[\w/-]")  # a colon, comma or full stop ends it
# what a run writes, and data of a user's own
MADE = ("checkpoints/step_", "data/emoji", "data/mydata", "data/train", "docs/swagger")


def name(page) -> str:
    return str(page.relative_to(ROOT))


def slug(heading: str) -> str:
    """The anchor that a forge gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page) -> list:
    prose = CODE.sub("", page.read_text(encoding="utf-8"))
    return [slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.M)]


def exists(path: str) -> bool:
    """Whether a document may name it: from the root, or from the package."""
    return any(list(base.glob(path.rstrip("/"))) for base in (ROOT, ROOT / "ernie_vil2"))


def paths(page) -> set:
    """What its code, inline and in blocks, names as a path of the repository."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for _, block in CODE.findall(text)]
    found = PATH.findall("\n".join([*blocks, *re.findall(r"`([^`]+)`", CODE.sub("", text))]))
    ours = (path for path in found if path.partition("/")[0] in ROOMS | TOPS)
    return {path for path in ours if not path.startswith(MADE)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text(encoding="utf-8")))
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_is_of_this_tree(page):
    assert [path for path in sorted(paths(page)) if not exists(path)] == []


def test_paths_are_found_at_all():
    """A comparison that can fail: the README's picture and commands name many."""
    found = paths(ROOT / "README.md")
    assert {"tools/quickstart.sh", "configs/base.yaml", "models/image.py"} <= found
    assert not exists("models/picture.py") and not exists("tools/nothing.sh")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_key_is_one_of_the_configuration(page):
    base = yaml.safe_load((ROOT / "configs/base.yaml").read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    for key in re.findall(rf"(?<![\w.])(?:{'|'.join(base)})(?:\.\w+)+(?=[`=: ])", text):
        node = base
        for part in key.split(".dataset.")[0].split("."):  # behind it are a format's options
            if isinstance(node, list):
                node = node[int(part)]
            else:
                assert part in node, key
                node = node[part]


@pytest.mark.parametrize("page", ENGLISH, ids=name)
def test_both_languages_have_the_same(page):
    """Sections, rows of tables and commands; what the commands' comments say differs."""
    other = PAIRS[page]
    assert other.is_file(), f"{name(other)} is missing"
    if page.name == "contributing.md":  # a link to the other one
        return

    def outline(text):
        prose = CODE.sub("", text)
        commands = [b for kind, b in CODE.findall(text) if kind == "bash"]
        return (
            re.findall(r"^#+(?= )", prose, re.M),
            len(re.findall(r"^\|", prose, re.M)),
            [re.sub(r"\s*#.*$", "", block, flags=re.M) for block in commands],
        )

    outlines = (outline(p.read_text(encoding="utf-8")) for p in (page, other))
    for ours, theirs in zip(*outlines):
        assert ours == theirs


def test_no_page_stands_alone():
    assert {p for p in PAGES if p.stem.endswith("_zh")} == {PAIRS[page] for page in ENGLISH}


@pytest.mark.parametrize("file", ["README.md", "README_zh.md"])
def test_the_readme_is_short_and_has_its_two_commands(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    commands = [line.partition("#")[0].strip() for line in lines]
    assert "bash tools/quickstart.sh" in commands and "bash tools/test.sh" in commands
