"""Tarballs of npm packages: what is read from them, and what is not downloaded again."""

import base64
import hashlib
import io
import tarfile

from ernie_vil2.demo import npm


def test_only_wanted_regular_files_are_read_from_a_tarball(tmp_path):
    path = tmp_path / "hostile-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as tar:

        def add(name, content=b"", **fields):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))

        add("package/img/a.png", b"good")
        add("package/img/link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("package/img/hard.png", type=tarfile.LNKTYPE, linkname="../../secret")
        add("package/img", type=tarfile.DIRTYPE)
        add("package/../../evil.png", b"evil")
        add("/etc/evil.png", b"evil")
        add("package/other.txt", b"unwanted")
        add("package/img/huge.png", b"\0" * (npm.MAX_MEMBER_BYTES + 1))
    assert npm.read_members(path, lambda n: n.startswith("img/")) == {"img/a.png": b"good"}
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    package = npm.Package("hostile", "1.0.0", integrity)
    # what is in the cache is not downloaded again
    assert npm.fetch(package, tmp_path) == npm.check_given(package, tmp_path) == path
    assert npm.Package("@a/b-c", "2.0.0", "").filename == "a-b-c-2.0.0.tgz"
