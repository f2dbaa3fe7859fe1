"""What is kept of a picture: its vector, and what its file and the user say of it."""

import hashlib
import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import picture_id
from tests.support.hostile import pictures as hostile
from tests.support.indexes import counts, write_pictures


def test_pictures_and_vectors_are_those_of_the_files(index, folder, tiny_artefact):
    from ernie_vil2.serving.predictor import Predictor

    paths = write_pictures(folder, 21)
    summary = index.update(folder)
    assert counts(summary) == {"there": 21, "new": 21}
    assert str(summary).startswith(
        "21 pictures: 21 new, 0 changed, 0 moved, 0 deleted, 0 bad; "
    ) and str(summary).endswith(" pictures/s")
    kept = index.content()
    assert set(kept) == set(map(str, paths))
    expected = Predictor(tiny_artefact, threads=1).encode_image(paths)
    for path, vector in zip(paths, expected):
        picture, found = kept[str(path)]
        np.testing.assert_allclose(np.frombuffer(found, "float32"), vector, atol=1e-6)
        data, status = path.read_bytes(), path.stat()
        assert picture.id == hashlib.sha256(str(path).encode()).hexdigest()[:20]
        assert picture.sha256 == hashlib.sha256(data).hexdigest()
        assert (picture.size, picture.mtime_ns) == (len(data), status.st_mtime_ns)
        assert picture.taken == int(status.st_mtime)
        with Image.open(path) as image:
            assert (picture.width, picture.height) == image.size


def test_a_photograph_says_when_it_was_taken_and_under_what_words(index, folder):
    image = Image.fromarray(hostile.scene(np.random.default_rng(0), (48, 36)))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    exif.get_ifd(0x8769)[0x9003] = "2019:07:14 23:59:58"
    xmp = (
        b"<x:xmpmeta><dc:subject><rdf:Bag><rdf:li>\xe6\xb5\xb7\xe8\xbe\xb9</rdf:li>"
        b'<rdf:li xml:lang="de">Bl&#252;te &amp; Blatt</rdf:li></rdf:Bag></dc:subject></x:xmpmeta>'
    )
    itxt = PngInfo()
    itxt.add_itxt("XML:com.adobe.xmp", xmp.decode())
    for name, options in (("a.jpg", {"xmp": xmp}), ("b.png", {"pnginfo": itxt})):
        image.save(folder / name, exif=exif, **options)
    image.save(folder / "c.webp", exif=exif, xmp=xmp)
    tags = ImageFileDirectory_v2()
    tags[0x8769] = {0x9003: "2019:07:14 23:59:58"}
    image.save(folder / "d.tiff", tiffinfo=tags)
    index.update(folder)
    for path, (picture, _) in index.content().items():
        assert picture.taken == 1563148798, path  # date -u -d '2019-07-14 23:59:58' +%s
        if not path.endswith("d.tiff"):
            assert set(picture.tags) == {"海边", "Blüte & Blatt"}, path
    turned = index.content()[str(folder / "a.jpg")][0]
    assert (turned.width, turned.height) == (36, 48)


@pytest.mark.parametrize("date", ["", "yesterday", "0000:00:00 00:00:00", "9999:99:99 99:99:99"])
def test_a_date_that_is_none_gives_way_to_the_files(index, folder, date):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = date
    Image.new("RGB", (20, 20), "red").save(folder / "a.jpg", exif=exif)
    os.utime(folder / "a.jpg", (1_000_000, 1_000_000))
    index.update(folder)
    assert index.content()[str(folder / "a.jpg")][0].taken == 1_000_000


def test_ids_are_those_of_the_paths(index, folder):
    write_pictures(folder, 3)
    index.update(folder)
    assert all(x.id == picture_id(path) for path, (x, _) in index.content().items())


def test_a_picture_of_one_pixel_and_io(index, folder):
    stream = io.BytesIO()
    Image.new("1", (1, 1)).save(stream, "PNG")
    (folder / "dot").write_bytes(stream.getvalue())
    index.update(folder)
    assert [(x.width, x.height) for x, _ in index.content().values()] == [(1, 1)]


# -- Tags ------------------------------------------------------------------------------------------


def tags_file(path, tags):
    lines = (json.dumps({"id": str(id), "tags": words}) + "\n" for id, words in tags.items())
    path.write_text("".join(lines))
    return path


def test_tags_come_from_a_file_and_stay_where_none_is_given(index, folder, tmp_path):
    one, other, third, *_ = write_pictures(folder, 4)
    tags = {one.relative_to(folder): ["猫"], other: ["a", "b"], "elsewhere.png": ["x"]}
    file = tags_file(tmp_path / "tags.jsonl", tags)
    index.update(folder)
    assert counts(index.update(folder, tags_file=file)) == {"there": 4}
    assert index.embedded == 4
    kept = index.content()
    assert [set(kept[str(x)][0].tags) for x in (one, other, third)] == [{"猫"}, {"a", "b"}, set()]
    assert index.update(folder, tags_file=file).looked_at == 0
    os.utime(one)
    os.rename(other, folder / "moved.png")
    index.update(folder)
    kept = index.content()
    assert set(kept[str(one)][0].tags) == {"猫"}
    assert set(kept[str(folder / "moved.png")][0].tags) == {"a", "b"}


@pytest.mark.parametrize("line", ["[]", '{"id": "a"}', '{"tags": []}', "{", '{"id": 1, "tags": 2}'])
def test_a_tags_file_of_something_else(index, folder, tmp_path, line):
    (tmp_path / "tags.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"tags.jsonl:1.*expected lines .*--tags-file"):
        index.update(folder, tags_file=tmp_path / "tags.jsonl")
