"""Settings that cannot work are refused, with their place in the file."""

import pytest
import yaml

from ernie_vil2.errors import UserError
from ernie_vil2.serving.paddle_serving.settings import load_settings
from tests.support.paddle_serving import DEFAULTS


def text(**local) -> dict:
    return {"op": {"text": {"local_service_conf": local}}}


def load(folder, settings: dict):
    path = folder / "settings.yml"
    path.write_text(yaml.safe_dump(settings))
    return load_settings(path, 18083)


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
        (text(device_type=3), "op.text.local_service_conf.device_type '3' in .*: expected 0 .CPU"),
        (text(device_type=1, devices="a"), 'devices \'a\' in .*: expected "0", or as "0,1"'),
        (text(precision="fp8"), "precision 'fp8' in .*: expected one of fp32, bf16, fp16, int8"),
        (
            text(ir_optim=False),
            "ir_optim 'False' in .*: expected True, as it always is here",
        ),
        (text(use_calib=True), "use_calib 'True' in .*: expected False, as it always is here"),
        (text(use_mkldnn=False), "use_mkldnn 'False' in .*: expected True"),
        (text(tensorrt_cache=3), "tensorrt_cache '3' in .*: expected a folder"),
        (text(workspace=3), 'local_service_conf in .* has "workspace"'),
    ],
)
def test_settings_that_cannot_work(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, change)


@pytest.mark.parametrize(
    "local,devices,tensorrt",
    [
        ({}, ["cpu"], False),
        ({"device_type": 0, "devices": "", "use_mkldnn": True, "mem_optim": True}, ["cpu"], False),
        ({"devices": "1"}, ["gpu:1"], False),  # Paddle Serving's rule
        ({"device_type": 1, "devices": "0, 2", "use_mkldnn": False}, ["gpu:0", "gpu:2"], False),
        ({"device_type": 2}, ["gpu:0"], True),
    ],
)
def test_the_words_of_paddle_serving(tmp_path, local, devices, tensorrt):
    found = load(tmp_path, {**text(**local, precision="fp32", thread_num=3), "limits": {"rows": 9}})
    options = found.towers["text"]
    assert [each.device for each in options] == devices
    assert {(o.tensorrt, o.threads, o.batch_size, o.precision) for o in options} == {
        (tensorrt, 3, 9, "fp32")
    }
    assert "local_service_conf" not in found.pipeline["op"]["text"]


def test_the_defaults_are_the_file_that_comes_along(tmp_path):
    assert load_settings(DEFAULTS, 18083).towers == load(tmp_path, {}).towers
