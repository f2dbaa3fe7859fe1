"""What a user writes to name many files."""

import os
import subprocess

import pytest

from ernie_vil2.data.files import names
from ernie_vil2.data.formats import rows
from ernie_vil2.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-00.tar", "a-01.tar", "a-10.tar", "b-1.tar", "b-[2].tar", "c.tsv", "d/e.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        "x",
        "{a,b}",
        "{00..11}.tar",
        "{8..11}",
        "{1,{03..05}}/{a,b}",
        "{a,}x",
        "p{1..2}q{x,y}",
        "{7..7}",
    ],
)
def test_braces_are_those_of_the_shell(pattern):
    shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True)
    assert names.braces(pattern) == shell.stdout.split()


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("a-{00..01}.tar", ["a-00.tar", "a-01.tar"]),
        ("a-*.tar", ["a-00.tar", "a-01.tar", "a-10.tar"]),
        ("a-?[01].tar", ["a-00.tar", "a-01.tar", "a-10.tar"]),
        ("b-[2].tar", ["b-[2].tar"]),  # a name, since there is such a file
        (["d/*", "a-01.tar", "a-0*.tar"], ["d/e.tar", "a-01.tar", "a-00.tar", "a-01.tar"]),
        (".", [f"./{n}" for n in ("a-00.tar", "a-01.tar", "a-10.tar", "b-1.tar", "b-[2].tar")]),
        ("d", ["d/e.tar"]),
        ("{d/e,a-10}.tar", ["a-10.tar", "d/e.tar"]),
    ],
)
def test_files_of_this_machine(folder, what, expected):
    assert names.find(what) == expected
    assert names.find("file://" + os.path.abspath("a-00.tar")) == [os.path.abspath("a-00.tar")]


def test_a_list_file(folder):
    (folder / "lists").mkdir()
    text = "\ufeff# the good ones\n\n ../a-{00..01}.tar \r\ns3://data/{1,2}.tar\n"
    (folder / "lists" / "good.txt").write_text(text)
    expected = ["lists/../a-00.tar", "lists/../a-01.tar", "s3://data/1.tar", "s3://data/2.tar"]
    assert names.find("lists/good.txt") == names.find(["@lists/good.txt"]) == expected


def test_a_folder_of_other_files(folder):
    assert names.find(str(folder), suffix=".tsv") == [str(folder / "c.tsv")]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("no.tar", "no.tar does not exist"),
        ("no-*.tar", "no file matches no-\\*.tar"),
        ("a-{00..02}.tar", "a-02.tar does not exist"),
        ("a-{00..02.tar", "opens a brace that it does not close"),
        ("a-00..02}.tar", "closes a brace that it does not open"),
        ("a-{00}.tar", "neither a range such as"),
        ("a-{9..1}.tar", "no range of 1 to 1000000 numbers"),
        ("a-{0..1000000}.tar", "no range of 1 to 1000000 numbers"),
        ("*", "empty is no file"),
        ([], "the list of data files is empty"),
        (7, "7 is no path"),
        ("@no.txt", "no.txt does not exist"),
        ("@empty.txt", "empty.txt names no file"),
        ("@c.gb.txt", "no text in UTF-8"),
        ("empty", "folder empty has no file that ends with .tar"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, what, told):
    (folder / "empty").mkdir()
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "c.gb.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=told) as caught:
        names.find(what)
    assert "\n" not in str(caught.value)


def test_files_of_a_store():
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("/set/0.tar", "/set/1.tar", "/set/2.txt", "/set/deep/3.tar"):
        memory.pipe(name, b"4.tar\n../1.tar\nmemory://set/{0..1}.tar\n")
    both = ["memory://set/0.tar", "memory://set/1.tar"]
    for what in ("memory://set/*.tar", "memory://set/", "memory://set/{0..1}.tar"):
        assert names.find(what) == both
    listed = ["memory://set/4.tar", "memory://set/../1.tar", *both]
    assert names.find("memory://set/2.txt") == listed
    for what, told in (
        ("memory://set/x*", "no file matches"),
        ("memory://set/deep/deeper/", "no such file"),
        ("nothing://x/y*", "Protocol not known: nothing"),
    ):
        with pytest.raises(UserError, match=told):
            names.find(what)
    memory.rm("/set", recursive=True)


def test_a_format_that_reads_no_store_says_so():
    with pytest.raises(UserError, match="where shards alone are read"):
        rows.files(["s3://data/a.tsv"])


def test_a_query_is_no_pattern():
    for url in ("https://example.org/a.tar?x=[1]&y=2", "http://[::1]:8080/a.tar"):
        assert names.find(url) == [url]
