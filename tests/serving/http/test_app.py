"""The HTTP application in this process: its answers, and its other pages."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from ernie_vil2.serving.http.endpoints import short_floats
from tests.support.http_requests import (
    LIMITS,
    b64,
    error_of,
    png,
)

# -- Answers ---------------------------------------------------------------------------------------


def test_texts_get_the_models_embeddings(client, predictor):
    texts = ["a red circle", "the blue square", "circle"]
    expected = predictor.encode_text(texts)
    answer = client.post("/v1/embed/text", json={"texts": texts}).json()
    assert answer["dim"] == predictor.embed_dim
    assert [row["index"] for row in answer["results"]] == [0, 1, 2]
    rows = np.array([row["embedding"] for row in answer["results"]], np.float32)
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    packed = client.post("/v1/embed/text", json={"texts": texts, "encoding": "base64"}).json()
    packed = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed["results"]]
    np.testing.assert_array_equal(packed, rows)


def test_images_as_json_and_as_a_form_are_the_same(client, predictor):
    images = [png(0), png(1, (40, 20), "JPEG"), png(2, (16, 16), "WEBP")]
    expected = predictor.encode_image(images)
    as_json = client.post("/v1/embed/image", json={"images": [b64(image) for image in images]})
    as_form = client.post(
        "/v1/embed/image", files=[("images", (f"{i}", image)) for i, image in enumerate(images)]
    )
    for response in (as_json, as_form):
        rows = [row["embedding"] for row in response.json()["results"]]
        np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_similarity_is_cosine_and_logits(client, predictor):
    texts, images = ["red circle", "blue"], [png(0), png(1), png(2)]
    cosine = predictor.encode_text(texts) @ predictor.encode_image(images).T
    body = {"texts": texts, "images": [b64(image) for image in images]}
    answer = client.post("/v1/similarity", json=body).json()
    np.testing.assert_allclose(answer["cosine"], cosine, atol=1e-6)
    np.testing.assert_allclose(answer["logits"], predictor.logit_scale * cosine, atol=2e-5)
    assert answer["logit_scale"] == predictor.logit_scale
    assert answer["errors"] == []


def test_similarity_leaves_out_bad_items(client, predictor):
    texts, images = ["red circle", "x\0"], [b64(b"no image"), b64(png(1))]
    answer = client.post("/v1/similarity", json={"texts": texts, "images": images}).json()
    cosine = predictor.encode_text(texts[:1]) @ predictor.encode_image([png(1)]).T
    assert answer["cosine"][1] == [None, None]
    assert answer["cosine"][0][0] is None
    assert answer["cosine"][0][1] == pytest.approx(cosine[0, 0], abs=1e-6)
    errors = [(error["input"], error["index"], error["code"]) for error in answer["errors"]]
    assert errors == [("texts", 1, "bad_text"), ("images", 0, "bad_image")]
    for bad in ({"texts": ["\0"]}, {"images": [b64(b"no image")]}):
        response = client.post("/v1/similarity", json={"texts": texts, "images": images, **bad})
        assert response.status_code == 422
        assert response.json()["error"]["index"] == 0


@pytest.mark.parametrize("templates", [None, ["{}"], ["the {}", "a {} circle"]])
def test_classification_by_prompts(client, predictor, templates):
    labels, images = ["red", "blue", "green"], [png(0), png(1)]
    used = templates or predictor.artefact.prompts
    means = []
    for label in labels:
        rows = predictor.encode_text([template.format(label) for template in used])
        means.append(rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0)))
    cosine = predictor.encode_image(images) @ np.array(means).T
    logits = np.exp(predictor.logit_scale * cosine.astype(np.float64))
    limits = {} if templates is None else {"templates": templates}
    body = {"images": [*map(b64, images), "?"], "labels": labels, **limits}
    if 3 * len(used) + 3 > LIMITS.items:
        body["labels"], labels = labels[:2], labels[:2]
        logits, cosine = logits[:, :2], cosine[:, :2]
    answer = client.post("/v1/classify", json=body).json()
    assert answer["labels"] == labels
    assert answer["results"][2]["error"]["code"] == "bad_base64"
    for i, row in enumerate(logits / logits.sum(axis=1, keepdims=True)):
        result = answer["results"][i]
        np.testing.assert_allclose(result["probabilities"], row, atol=1e-4)
        np.testing.assert_allclose(result["cosine"], cosine[i], atol=1e-6)
        assert result["label"] == labels[int(row.argmax())]


def test_classification_of_a_form(client):
    form = client.post(
        "/v1/classify",
        data={"labels": ["red", "blue"], "templates": ["the {}"]},
        files={"images": png(0)},
    )
    body = {"images": [b64(png(0))], "labels": ["red", "blue"], "templates": ["the {}"]}
    assert form.json() == client.post("/v1/classify", json=body).json()
    assert form.status_code == 200


def test_classification_refuses_bad_labels_and_templates(client):
    def classify(**fields):
        body = {"images": [b64(png())], "labels": ["red"], "templates": ["{}"], **fields}
        return client.post("/v1/classify", json=body)

    assert error_of(classify(labels=["red", ""]), 422, "empty_text")["index"] == 1
    assert error_of(classify(labels=["\0"]), 422, "bad_text")["index"] == 0
    blank = error_of(classify(labels=["red", "\u200b \n"]), 422, "empty_text")
    assert (blank["index"], blank["message"]) == (1, "label: no token in the text")
    assert error_of(classify(labels=["red", "x" * 51]), 422, "text_too_long")["index"] == 1
    assert error_of(classify(templates=["{}", "none"]), 422, "bad_template")["index"] == 1
    error_of(classify(templates=["{0.__class__}"]), 422, "bad_template")
    error_of(classify(templates=["{}" * 2]), 422, "bad_template")
    error_of(classify(templates=["x" * 50 + "{}"]), 422, "text_too_long")
    error_of(classify(labels=["red"] * 4, templates=["{}"] * 3), 422, "too_many_items")
    # nothing in a template or label is interpreted
    assert classify(templates=["{red} {}"]).status_code == 200
    assert classify(labels=["{}", "{0}"], templates=["red {}"]).status_code == 200


def test_one_bad_item_does_not_take_the_answer_from_the_others(client, predictor):
    bomb = io.BytesIO()
    Image.new("1", (3000, 3000)).save(bomb, "PNG")
    bad = {
        0: ("bad_base64", "{}"),
        2: ("bad_image", ""),
        3: ("bad_image", b64(png(3)[:-30])),
        4: ("too_many_pixels", b64(bomb.getvalue())),
        5: ("bad_image", b64(b"/etc/passwd")),
        7: ("too_many_pixels", b64(b"P6 90000 90000 255 ")),
    }
    images = [bad[i][1] if i in bad else b64(png(i)) for i in range(8)]
    response = client.post("/v1/embed/image", json={"images": images})
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["index"] for result in results] == list(range(8))
    for i, (code, _) in bad.items():
        assert results[i]["error"]["code"] == code
        assert results[i]["error"]["index"] == i
    good = predictor.encode_image([png(1), png(6)])
    np.testing.assert_allclose([results[i]["embedding"] for i in (1, 6)], good, atol=1e-6)

    texts = ["red", "", "x" * 51, "nul\0", "\u200b \n"]
    results = client.post("/v1/embed/text", json={"texts": texts}).json()["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [None, "empty_text", "text_too_long", "bad_text", "empty_text"]


def test_no_good_item_is_an_error(client):
    response = client.post("/v1/embed/text", json={"texts": ["", "x" * 99]})
    error = error_of(response, 422, "empty_text")
    assert error["index"] == 0
    assert response.json()["results"][1]["error"]["code"] == "text_too_long"


def test_short_floats_tell_every_float32_apart():
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 10, 4000) * 10.0 ** rng.integers(-13, 3, 4000)
    values = np.append(values, [0, 1, -1, -0.1, 100]).astype(np.float32)
    written = json.loads(json.dumps(short_floats(values)))
    np.testing.assert_array_equal(np.float32(written), values)
    assert max(len(repr(value)) for value in written) <= len("1.23456789e-10")
    np.testing.assert_allclose(short_floats(np.float32([1e-20, 1e-40])), 0, atol=1e-19)


# -- Operation -------------------------------------------------------------------------------------


def test_unknown_routes_and_methods(client):
    error_of(client.get("/v1/embed/../../etc/passwd"), 404, "not_found")
    response = client.get("/v1/embed/text")
    error_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_metrics(make_client):
    client = make_client()
    client.post("/v1/embed/text", json={"texts": ["red", "", "blue"]})
    client.post("/v1/embed/text", json={})
    client.get("/a-path-that-a-client-made-up")
    text = client.get("/metrics").text
    for line in (
        'ernie_vil2_requests_total{route="/v1/embed/text",status="200"} 1.0',
        'ernie_vil2_requests_total{route="/v1/embed/text",status="422"} 1.0',
        'ernie_vil2_requests_total{route="other",status="404"} 1.0',
        'ernie_vil2_items_total{tower="text"} 2.0',
        'ernie_vil2_item_errors_total{code="empty_text",tower="text"} 1.0',
        'ernie_vil2_batch_size_sum{tower="text"} 2.0',
        "ernie_vil2_queue_depth 0.0",
        "ernie_vil2_buffered_bytes 0.0",
        "ernie_vil2_requests_in_flight 1.0",
        "ernie_vil2_ready 1.0",
    ):
        assert line in text.splitlines()
    assert "made-up" not in text
    assert "process_resident_memory_bytes" in text


def test_examples_of_the_documentation_work(client):
    document = client.get("/openapi.json").json()
    posts = {path: item["post"] for path, item in document["paths"].items() if "post" in item}
    assert len(posts) == 4
    for path, operation in posts.items():
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        examples = {
            name: field["examples"][0]
            for name, field in schema["properties"].items()
            if "examples" in field
        }
        response = client.post(path, json=examples)
        assert response.status_code == 200, (path, response.text)
        assert "error" not in response.text.replace('"errors":[]', "")
    assert client.get("/docs").status_code == 200


def test_the_documentation_needs_no_network(client):
    page = client.get("/docs").text
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert links == ["docs/swagger-ui.css", "data:,", "docs/swagger-ui-bundle.js"]
    assert "://" not in page and '"validatorUrl": null' in page
    kinds = ("text/css; charset=utf-8", "text/javascript; charset=utf-8")
    for path, kind in zip((links[0], links[2]), kinds):
        response = client.get(f"/{path}")
        assert response.status_code == 200 and response.headers["content-type"] == kind
        assert len(response.content) > 100_000
    assert "/docs" not in client.get("/openapi.json").text
