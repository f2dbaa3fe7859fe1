"""Files by id: as they were indexed or not at all, and never as anything but a picture."""

import contextlib
import gc
import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.search.collection import Picture, picture_id
from ernie_vil2.search.identity import model_identity
from ernie_vil2.search.open import open_collection
from ernie_vil2.serving.http.find.files import SIDE, type_of
from ernie_vil2.serving.web.limits import Limits
from tests.support.http_requests import error_of
from tests.support.pictures import encoded, noise

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
HTML = b"<!DOCTYPE html><script>alert(1)</script>"


def photo() -> bytes:
    """A camera's JPEG: left half red, lying on its side, with a place in its EXIF."""
    pixels = np.zeros([400, 800, 3], np.uint8)
    pixels[:, :400] = 255, 0, 0
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    return encoded(Image.fromarray(pixels), "JPEG", exif=exif)


FILES = {
    "photo.jpg": photo(),
    "png of another name.jpg": noise("PNG"),
    "web.webp": noise("WEBP"),
    "animated.gif": noise("GIF"),
    "old.bmp": noise("BMP"),
    "scan.tiff": noise("TIFF"),
    "plain.ppm": noise("PPM"),
    "drawing.jpg": SVG,
    "page.jpg": HTML,
    "broken.png": noise("PNG")[:200],
    "thin.png": noise("PNG", size=(2000, 2)),
    "a\nb\u202e<img src=x onerror=alert(1)>.png": noise("PNG", mode="L"),
}


def write_row(path, data: bytes) -> Picture:
    """What the collection knows of a file that has just been written."""
    path.write_bytes(data)
    state = path.stat()
    digest = hashlib.sha256(data).hexdigest()
    place = str(path)
    return Picture(picture_id(place), place, digest, len(data), state.st_mtime_ns, 0, 1, 1, 0)


def write_collection(folder, tiny_artefact, files) -> dict[str, str]:
    """Files and a collection of them in `folder`; name -> id."""
    artefact = Artefact.open(tiny_artefact)
    rows = [write_row(folder / name, data) for name, data in files.items()]
    vectors = np.eye(artefact.embed_dim, dtype=np.float32)[: len(rows)]
    with contextlib.closing(
        open_collection(
            str(folder / "db"), model_identity(artefact), dim=artefact.embed_dim, write=True
        )
    ) as collection:
        collection.add(rows, vectors)
    return {os.path.basename(row.path): row.id for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def ids(folder, tiny_artefact):
    return write_collection(folder, tiny_artefact, FILES)


@pytest.fixture(scope="module")
def files(make_client, folder, ids):
    limits = Limits(pixels=10**6, buffered_bytes=1 << 20)
    return make_client(limits=limits, db=folder / "db")


def test_a_thumbnail_is_small_upright_and_says_nothing_else(files, ids):
    answer = files.get(f"/thumb/{ids['photo.jpg']}")
    assert answer.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == ("JPEG", (SIDE // 2, SIDE))
    assert not image.getexif() and not image.info.get("comment")
    assert np.abs(np.array(image).astype(int)[20, 80] - [255, 0, 0]).max() < 12  # red is on top
    assert np.array(image)[300, 80].max() < 12
    thin = Image.open(io.BytesIO(files.get(f"/thumb/{ids['thin.png']}").content))
    assert thin.size == (SIDE, 1)
    small = Image.open(io.BytesIO(files.get(f"/thumb/{ids['web.webp']}").content))
    assert small.size == (40, 30)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("photo.jpg", "image/jpeg"),
        ("png of another name.jpg", "image/png"),
        ("web.webp", "image/webp"),
        ("animated.gif", "image/gif"),
        ("old.bmp", "image/bmp"),
        ("scan.tiff", "image/tiff"),
        ("plain.ppm", "image/x-portable-anymap"),
        ("a\nb\u202e<img src=x onerror=alert(1)>.png", "image/png"),
    ],
)
def test_a_picture_is_sent_as_it_is_and_as_what_it_is(files, ids, name, kind):
    answer = files.get(f"/image/{ids[name]}")
    assert answer.content == FILES[name]
    assert answer.headers["content-type"] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["content-disposition"].isascii()
    assert files.get(f"/thumb/{ids[name]}").status_code == 200


def test_what_could_run_is_never_sent(files, ids):
    for name in ("drawing.jpg", "page.jpg", "broken.png"):
        error_of(files.get(f"/thumb/{ids[name]}"), 404, "bad_image")
    for name in ("drawing.jpg", "page.jpg"):
        error_of(files.get(f"/image/{ids[name]}"), 404, "bad_image")
    assert type_of(noise("PNG")) == "image/png"


def test_a_browser_that_has_it_gets_it_no_second_time(files, ids):
    for route in ("thumb", "image"):
        path = f"/{route}/{ids['photo.jpg']}"
        first = files.get(path)
        again = files.get(path, headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert files.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def removed(path):
    path.unlink()


def changed(path):
    """Into another picture of the same size and time."""
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def linked(path):
    """To a file that was never indexed, of the same size."""
    secret = path.with_name(f"secret of {path.name}.txt")
    secret.write_bytes(b"s" * path.stat().st_size)
    path.unlink()
    path.symlink_to(secret)


def piped(path):
    path.unlink()
    os.mkfifo(path)


def made_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [removed, changed, linked, piped, made_a_folder])
@pytest.mark.parametrize("route", ["thumb", "image"])
def test_what_is_no_longer_there_is_not_sent(make_client, tiny_artefact, tmp_path, spoil, route):
    ids = write_collection(tmp_path, tiny_artefact, {"a.png": noise("PNG")})
    client = make_client(db=tmp_path / "db")
    spoil(tmp_path / "a.png")
    answer = client.get(f"/{route}/{ids['a.png']}")
    code = answer.json()["error"]["code"]
    error_of(answer, 404, code)
    assert code in ("removed", "changed", "unreadable")
    assert str(tmp_path) not in answer.text


def test_a_thumbnail_in_memory_is_of_the_file_as_it_is(make_client, tiny_artefact, tmp_path):
    ids = write_collection(tmp_path, tiny_artefact, {"a.png": noise("PNG")})
    client = make_client(db=tmp_path / "db")
    path = f"/thumb/{ids['a.png']}"
    first = client.get(path)
    tag = {"If-None-Match": first.headers["etag"]}
    (tmp_path / "a.png").write_bytes(noise("PNG", size=(50, 50)))
    error_of(client.get(path), 404, "changed")
    error_of(client.get(path, headers=tag), 404, "changed")
    # indexed again, it is another one, also for who has just seen the old
    row = write_row(tmp_path / "a.png", noise("PNG", size=(50, 50)))
    with contextlib.closing(open_collection(str(tmp_path / "db"), write=True)) as collection:
        collection.add([row], collection.vectors([row.id]))
    second = client.get(path, headers=tag)
    assert Image.open(io.BytesIO(second.content)).size == (50, 50)


def test_files_in_work_are_bounded_by_their_bytes(files, ids, folder, tiny_artefact):
    gc.collect()
    assert files.service.bodies.held == 0
    row = write_row(folder / "large.bmp", b"BM" + bytes(2 << 20))
    with contextlib.closing(open_collection(str(folder / "db"), write=True)) as collection:
        collection.add([row], np.eye(collection.dim, dtype=np.float32)[:1])
    error_of(files.get(f"/image/{row.id}"), 413, "file_too_large")
    files.service.bodies.held = (1 << 20) - 10  # as if others were at it
    error_of(files.get(f"/image/{ids['photo.jpg']}"), 429, "busy")
    files.service.bodies.held = 0
    assert files.get(f"/image/{ids['photo.jpg']}").status_code == 200
    gc.collect()
    assert files.service.bodies.held == 0
