"""Settings that cannot work are refused, with their place in the file."""

import pytest
import yaml

from ernie_vil2.errors import UserError
from ernie_vil2.serving.paddle_serving.settings import load_settings


@pytest.fixture
def artefact(tmp_path):
    """As much of a model as settings are compared with."""
    for tower in ("image", "text"):
        folder = tmp_path / "model" / "serving_server" / tower
        folder.mkdir(parents=True)
        (folder / "serving_server_conf.prototxt").touch()
    return tmp_path / "model"


@pytest.mark.parametrize(
    "change,message",
    [
        ({"op": {"text": {"concurrency": 2}}}, "threads would share one predictor"),
        ({"op": {"txt": {}}}, 'op in .*settings.yml has "txt"; did you mean "text"?'),
        ({"limits": {"texts": -1}}, "texts -1 in .*: expected a whole number above 0"),
        ({"worker_num": "x"}, "worker_num 'x' in .*: expected a whole number"),
        ({"worker_num": 10**6}, "worker_num 1000000 in .*: expected .* above 0, at most 256"),
        ({"limits": {"seconds": 0}}, "limits.seconds 0 in .*: expected .* above 0"),
        ({"limits": {"texts": True}}, "limits.texts True in .*: expected a whole number"),
        ({"limits": {"body_mb": 10**80}}, "limits.body_mb of many digits in .*: expected"),
        ({"limits": {"bodies_mb": 8}}, "body_mb 32 in .* is above limits.bodies_mb 8"),
        ({"op": {"image": {"local_service_conf": {"thread_num": 10**6}}}}, "thread_num 1000000 in"),
        ({"op": {"text": {"batch_size": "8"}}}, "op.text.batch_size '8' in .*: expected a whole"),
        ({"dag": {"is_thread_op": "no"}}, "is_thread_op 'no' in .*: expected true or false"),
        ({"op": {"text": {"batch_size": 2}}}, "auto_batching_timeout in .*: expected at least 1"),
    ],
)
def test_settings_that_cannot_work(artefact, tmp_path, change, message):
    path = tmp_path / "settings.yml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(UserError, match=message):
        load_settings(path, artefact, 18083)
