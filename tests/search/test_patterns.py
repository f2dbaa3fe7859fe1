"""What `--exclude` leaves out: what git leaves out, for the same patterns."""

import subprocess

import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.search.patterns import Patterns

PATHS = [
    "a.gif",
    "b.GIF",
    "sub/a.gif",
    "sub/deep/a.gif",
    "raw/1.jpg",
    "sub/raw/1.jpg",
    "2019/raw/1.jpg",
    "2019/raw/deep/2.jpg",
    "drafts/x.png",
    "sub/drafts/y.png",
    "drafts.png",
    "c[1].png",
    "c1.png",
    "c-.png",
    "a b/c d.png",
    "海边/猫.jpg",
    "a^b.png",
    "star*.png",
    "starry.png",
    "(1)+.png",
]
GLOBS = [
    "*.gif",
    "raw",
    "raw/",
    "/raw",
    "2019/raw",
    "/2019/raw/",
    "sub/*.gif",
    "**/drafts/",
    "drafts",
    "**/drafts/*.png",
    "sub/**",
    "2019/**/2.jpg",
    "c[1].png",
    "c[!1].png",
    "c\\[1\\].png",
    "c[0-9].png",
    "?.gif",
    "a b",
    "海*",
    "猫.jpg",
    "a^*",
    "[a^]*.png",
    "star\\*.png",
    "(1)+.png",
    "sub/*/a.gif",
    "d*s",
    "*",
]


def left_out(patterns: Patterns, path: str) -> bool:
    """As the walk asks: folder by folder, then the file."""
    parts = path.split("/")
    folders = ["/".join(parts[:n]) for n in range(1, len(parts))]
    return any(patterns.fit(x, True) for x in folders) or patterns.fit(path, False)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", folder], check=True)
    for path in PATHS:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


@pytest.mark.parametrize("glob", GLOBS)
def test_what_git_ignores(repository, glob):
    (repository / ".gitignore").write_text(f"{glob}\n", encoding="utf-8")
    said = subprocess.run(
        ["git", "-C", repository, "check-ignore", "-z", "--stdin"],
        input="\0".join(PATHS).encode(),
        capture_output=True,
        check=False,
    )
    ignored = set(said.stdout.decode().split("\0")) - {""}
    patterns = Patterns([glob])
    assert {path for path in PATHS if left_out(patterns, path)} == ignored


def test_most_of_these_globs_ignore_something():
    assert sum(any(left_out(Patterns([glob]), path) for path in PATHS) for glob in GLOBS) > 20


@pytest.mark.parametrize("glob", ["!a", "", "/", "//"])
def test_what_says_nothing_is_refused(glob):
    with pytest.raises(UserError, match="--exclude"):
        Patterns([glob])
