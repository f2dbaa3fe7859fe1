"""/v1/classify with the classes that were exported with the model, and its `top`."""

import shutil

import numpy as np
import pytest

from ernie_vil2.artefact.classifier import Classifier
from ernie_vil2.artefact.description import CLASSIFIER
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.zero_shot import embed_classes
from tests.support.http_requests import b64, error_of, png
from tests.support.sealing import reseal

NAMES, TEMPLATES = ["a red line", "blue", "green", "the white cross"], ["{}", "the {}"]


@pytest.fixture(scope="module")
def exported(tiny_artefact, predictor, tmp_path_factory):
    folder = shutil.copytree(tiny_artefact, tmp_path_factory.mktemp("classes") / "model")
    embeds = embed_classes(NAMES, TEMPLATES, predictor.encode_text)
    Classifier(NAMES, TEMPLATES, embeds).save(folder / CLASSIFIER)
    return reseal(folder)


@pytest.fixture(scope="module")
def classifying(make_client, exported):
    return make_client(folder=exported)


def test_the_exported_classes_answer_as_labels_would(classifying):
    images = [b64(png(0)), b64(b"no image"), b64(png(1))]
    response = classifying.post("/v1/classify", json={"images": images})
    assert response.status_code == 200, response.text
    found = response.json()
    asked = {"images": images, "labels": NAMES, "templates": TEMPLATES}
    expected = classifying.post("/v1/classify", json=asked).json()
    assert found["labels"] == NAMES == expected["labels"]
    assert found["results"][1]["error"]["code"] == "bad_image"
    for i in (0, 2):
        assert found["results"][i]["label"] == expected["results"][i]["label"]
        for key in ("cosine", "probabilities"):
            a, b = found["results"][i][key], expected["results"][i][key]
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_most_probable_alone(classifying):
    body = {"images": [b64(png(0))]}
    (full,) = classifying.post("/v1/classify", json=body).json()["results"]
    answer = classifying.post("/v1/classify", json={**body, "top": 3}).json()
    assert set(answer) == {"results"} and set(answer["results"][0]) == {"index", "label", "top"}
    top = answer["results"][0]["top"]
    order = np.argsort(full["cosine"])[::-1][:3]
    assert [row["label"] for row in top] == [NAMES[i] for i in order]
    assert [row["probability"] for row in top] == [full["probabilities"][i] for i in order]
    assert [row["cosine"] for row in top] == [full["cosine"][i] for i in order]
    form = classifying.post("/v1/classify", data={"top": "3"}, files={"images": png(0)})
    assert form.json() == answer
    for bad in (0, "3", 1.5):
        error_of(
            classifying.post("/v1/classify", json={**body, "top": bad}), 422, "invalid_request"
        )


def test_what_is_refused(client, classifying):
    body = {"images": [b64(png(0))]}
    error = error_of(client.post("/v1/classify", json=body), 422, "no_classes")
    assert "--classes" in error["message"]
    with_templates = {**body, "templates": ["{}"]}
    error_of(classifying.post("/v1/classify", json=with_templates), 422, "bad_template")


def test_a_changed_or_foreign_classifier_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    file = folder / CLASSIFIER
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"classifier\.npz is damaged or was changed"):
        Artefact.open(folder).classifier()
    with pytest.raises(UserError, match=r"classifier\.npz is damaged"):
        Artefact.open(reseal(folder)).classifier()
    Classifier(NAMES, TEMPLATES, np.zeros([4, 3], np.float32)).save(file)
    with pytest.raises(UserError, match=r"float32 \[4, 3\], expected float32 \[4, "):
        Artefact.open(reseal(folder)).classifier()
