"""The members of a tar by its headers, against what Python's tarfile finds."""

import io
import subprocess
import tarfile

import pytest

from ernie_vil2.data.formats import tar
from tests.support.tars import header_at, lie, link, patch, write_tar

LONG = "/".join(["a-folder-with-a-name"] * 12) + "/" + "n" * 150 + ".jpg"  # more than 256 bytes
NAMES = ["a.jpg", "猫/b.txt", "x" * 100, "p" * 90 + "/" + "q" * 80, LONG, "folder/.hidden", "c"]


def reads(data: bytes) -> tar.Read:
    return lambda offset, count: data[offset : offset + count]


def walk(data: bytes) -> list[tar.Member]:
    found, at = [], 0
    while member := tar.member(reads(data), at):
        found.append(member)
        at = member.end
    return found


def assert_as_tarfile(path: str) -> None:
    with tarfile.open(path) as archive:
        expected = [(m.name, m.isreg(), m.offset, m.offset_data) for m in archive]
        contents = [archive.extractfile(m).read() for m in archive.getmembers() if m.isreg()]
    with open(path, "rb") as file:
        data = file.read()
    found = walk(data)
    assert [(m.name.rstrip("/"), m.kind == tar.FILE, m.start, m.content) for m in found] == expected
    regular = [data[m.content :][: m.size] for m in found if m.kind == tar.FILE]
    assert regular == contents and expected


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_places_and_contents_are_those_of_tarfile(tmp_path, kind):
    names = [name for name in NAMES if kind != tarfile.USTAR_FORMAT or name != LONG]
    members = [(name, b"%d" % n * 300 * n) for n, name in enumerate(names)]
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    others = [folder, link("l.jpg", "/etc/passwd"), link("h.jpg", "a.jpg", tarfile.LNKTYPE)]
    others += [link("device.png", "", tarfile.CHRTYPE), link("pipe.png", "", tarfile.FIFOTYPE)]
    path = write_tar(tmp_path / "a.tar", *members, *others, ("last.txt", b"x"), format=kind)
    assert_as_tarfile(path)


def test_a_tar_of_the_tar_command(tmp_path):
    for name in ("a.jpg", "b.txt", "z" * 120 + ".json"):
        (tmp_path / name).write_bytes(name.encode() * 99)
    for kind in ("gnu", "ustar", "pax", "v7"):
        names = ["a.jpg", "b.txt"] + (["z" * 120 + ".json"] if kind in ("gnu", "pax") else [])
        command = ["tar", "-C", tmp_path, f"--format={kind}", "-cf", tmp_path / "x.tar", *names]
        subprocess.run(command, check=True)
        assert_as_tarfile(str(tmp_path / "x.tar"))


def test_sizes_that_octal_digits_do_not_hold(tmp_path):
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("a.jpg")
        info.size = 9_000_000_000
        header = info.tobuf(kind)
        (member,) = [tar.member(reads(header), 0)]
        assert (member.size, member.content) == (9_000_000_000, len(header))


def test_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", ("a.jpg", b"x"), ("b.jpg", b"y"))
    with open(path, "rb") as file:
        data = file.read()
    assert walk(b"") == walk(bytes(10240)) == []
    assert len(walk(data[:2048])) == 2  # without the two blocks of zeros
    with pytest.raises(tar.BadHeader) as cut:
        walk(data[: 1024 + 300])
    assert cut.value.is_header and cut.value.name == "b.jpg"


@pytest.mark.parametrize(
    ("offset", "content"),
    [(124, b"99999999999\0"), (124, b"\xff" * 12), (124, b"-1\0"), (148, b"x"), (0, b"other")],
)
def test_damaged_headers(tmp_path, offset, content):
    path = write_tar(tmp_path / "a.tar", ("a.jpg", b"x"))
    patch(path, offset, content)
    with open(path, "rb") as file, pytest.raises(tar.BadHeader) as error:
        walk(file.read())
    assert error.value.is_header


@pytest.mark.parametrize(
    "records",
    [b"999 path=x\n", b"0 path=x\n", b"x path=x\n", b"10 path=x", b"9 path x\n", b"9" * 30],
)
def test_damaged_pax_headers(records):
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    header = info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0")
    with pytest.raises(tar.BadHeader):
        tar.member(reads(header + tarfile.TarInfo("a.jpg").tobuf()), 0)


def test_extended_headers_without_end():
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10
    many = (info.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0")) * 1000
    with pytest.raises(tar.BadHeader, match="too many"):
        tar.member(reads(many), 0)
    info.size = 1 << 40
    with pytest.raises(tar.BadHeader, match="1099511627776"):
        tar.member(reads(info.tobuf(tarfile.GNU_FORMAT)), 0)


def test_next_header_is_one_at_a_block_under_a_right_checksum(tmp_path):
    path = write_tar(tmp_path / "a.tar", ("a.jpg", bytes(3 << 20)), ("b.jpg", b"y"))
    with open(path, "rb") as file:
        read = reads(file.read())
    second = header_at(path, "b.jpg")
    assert tar.next_header(read, 0) == 0
    assert tar.next_header(read, 512) == tar.next_header(read, second) == second
    assert tar.next_header(read, second + 512) is None
    assert tar.next_header(read, 512, second) is None
    inner = io.BytesIO()
    inner.write(b"ustar" * 1000 + bytes(1024))
    assert tar.next_header(reads(inner.getvalue()), 0) is None


def test_keys_are_those_of_webdataset():
    """`webdataset.tariterators.base_plus_ext`, by its own examples and ours."""
    cases = {
        "a.jpg": ("a", "jpg"),
        "dir/a.seg.PNG": ("dir/a", "seg.png"),
        "d.1/a.jpg": ("d.1/a", "jpg"),
        "./a.jpg": ("./a", "jpg"),
        "a": ("", ""),
        ".hidden": ("", ""),
        "dir/.a.jpg": ("", ""),
        "dir.x/": ("", ""),
        "a.": ("a", ""),
    }
    assert {name: tar.split(name) for name in cases} == cases


def test_a_lie_about_the_size_has_a_right_checksum(tmp_path):
    path = write_tar(tmp_path / "a.tar", ("a.jpg", b"x"))
    lie(path, "a.jpg", 77)
    with open(path, "rb") as file:
        assert walk(file.read())[0].size == 77


def test_no_header_is_looked_for_behind_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", ("a.jpg", bytes(600)), ("b.jpg", b"y"))
    with open(path, "rb") as file:
        data = file.read()

    def read(offset: int, count: int) -> bytes:
        assert count > 0
        return data[offset : offset + count]

    assert tar.next_header(read, 512, header_at(path, "b.jpg")) is None
