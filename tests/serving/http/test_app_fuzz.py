"""A real server against requests made from its own OpenAPI document, and hostile images."""

import base64

import hypothesis
import numpy as np
import pytest
import schemathesis

from ernie_vil2.commands.index import main as index
from ernie_vil2.data.decode import FORMATS
from tests.serving.http.find.conftest import write_drawings
from tests.support.pictures import animation, noise, png_of
from tests.support.server_process import serving


@pytest.fixture(scope="module")
def server(tiny_artefact, tmp_path_factory):
    options = ["--max-items", "16", "--max-pixels", "1000000", "--max-body-mb", "4"]
    folder, db = tmp_path_factory.mktemp("fuzz"), tmp_path_factory.mktemp("collection") / "db"
    for number in range(2):  # enough of them for their relevance
        write_drawings(folder / f"drawings {number}", number)
    assert not index([str(tiny_artefact), str(folder), "--db", str(db)])
    with serving(tiny_artefact, folder / "log", "--db", str(db), *options) as server:
        yield server


@pytest.fixture
def document(server):
    document = schemathesis.openapi.from_url(f"{server.http.base_url}/openapi.json")
    # 408, 413, 415 and 429 are refusals too; which of them a route may give, the document says
    document.config.checks.negative_data_rejection.expected_statuses = ["4xx", "5xx"]
    return document


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_openapi(case):
    # A text that fits the document may have no token, and hardly any base64 is an image.
    case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])


def hostile_images() -> list[bytes]:
    rng = np.random.default_rng(1)
    images = [
        b"",
        b"\0" * 1000,
        b"GIF89a",
        b"\xff\xd8\xff",
        b"http://127.0.0.1/a.png",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage",
        b"%PDF-1.4",
        b"push graphic-context\nfill 'url(https://127.0.0.1/)'\npop graphic-context",
        png_of(0, 0, b""),
        png_of(1, 1, b""),
        png_of(2**31 - 1, 2**31 - 1, b""),
        png_of(900, 900, b"\0" * 100),
        png_of(100, 100, b"\0" * 10_000_000),  # more data than pixels
        png_of(1, 900_000, b"\0" * 4 * 900_000),  # a line that would grow to gigabytes
        png_of(16, 16, b"\0" * 999, depth=3, color=7),
        b"P6 1 1 99999999999999999999 \0\0\0",
        b"P6 -5 5 255 " + b"\0" * 75,
        b"BM" + b"\xff" * 60,
        b"II*\0" + b"\xff" * 60,
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 30,
    ]
    for kind in FORMATS:
        whole = noise(kind)
        images += [whole[: len(whole) // 2], whole[: len(whole) // 10]]
        for _ in range(6):
            broken = bytearray(whole)
            for place in rng.integers(0, min(len(broken), 400), 8):
                broken[place] = rng.integers(256)
            images.append(bytes(broken))
    return images


def good_images() -> list[bytes]:
    return [
        *(noise(kind) for kind in FORMATS),
        noise("PNG", mode="L"),
        noise("PNG", mode="1"),
        noise("PNG", mode="P"),
        noise("PNG", mode="RGBA"),
        noise("PNG", mode="I"),
        noise("TIFF", mode="CMYK"),
        noise("JPEG", mode="CMYK"),
        noise("JPEG", progressive=True),
        noise("PNG", size=(1, 1)),
        noise("PNG", size=(3, 900)),
        animation(),
    ]


@pytest.mark.parametrize("as_form", [False, True], ids=["json", "form"])
def test_hostile_images(server, as_form):
    """Each gets an embedding or its own one-line error, and good ones beside it are answered."""
    hostile, good = hostile_images(), good_images()
    seen = 0
    for start in range(0, len(hostile), 8):
        images = [*hostile[start : start + 8], good[start // 8 % len(good)]]
        if as_form:
            files = [("images", (f"../../{i}", image)) for i, image in enumerate(images)]
            response = server.http.post("/v1/embed/image", files=files)
        else:
            body = {"images": [base64.b64encode(image).decode() for image in images]}
            response = server.http.post("/v1/embed/image", json=body)
        assert response.status_code == 200, response.text
        results = response.json()["results"]
        assert [result["index"] for result in results] == list(range(len(images)))
        assert "embedding" in results[-1]
        for result in results:
            assert ("embedding" in result) != ("error" in result)
            if "error" in result:
                seen += 1
                assert result["error"]["code"] in ("bad_image", "too_many_pixels")
                assert "\n" not in result["error"]["message"]
                assert "0x7f" not in result["error"]["message"]  # an object's address
    assert seen >= 30


def test_good_images_of_every_kind(server):
    for image in good_images():
        response = server.http.post("/v1/embed/image", files={"images": image})
        assert response.status_code == 200, response.text
