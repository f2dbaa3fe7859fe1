"""TensorRT's engines: for what they are, where they are kept, and why there are none.

Nothing here has TensorRT; what stands for an engine's file is written by the test.
"""

import shutil
from dataclasses import replace

import paddle
import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.errors import UserError
from ernie_vil2.export.tensorrt import collect_shapes
from ernie_vil2.serving import tensorrt
from ernie_vil2.serving.predictor import Predictor
from tests.support.gpu_wheel import run_with_gpu_wheel
from tests.support.sealing import reseal

on_paddle2 = pytest.mark.skipif(paddle.__version__ >= "3", reason="Paddle 3 writes no .pdmodel")


@pytest.fixture(scope="module")
def artefact(tiny_artefact, tmp_path_factory):
    """With shapes of up to 4 images or texts."""
    folder = shutil.copytree(tiny_artefact, tmp_path_factory.mktemp("shapes") / "model")
    artefact = Artefact.open(folder)
    collect_shapes(artefact, 4)
    artefact.precisions["fp16"] = {}
    artefact.save()
    return Artefact.open(folder)


def test_on_a_cpu_or_without_tensorrt_it_is_refused(tiny_artefact):
    with pytest.raises(UserError, match="TensorRT on cpu: expected device gpu, or leave it off"):
        Predictor(tiny_artefact, tensorrt=True)
    with pytest.raises(UserError, match="TensorRT in bf16: expected fp32 or fp16, or leave it off"):
        tensorrt.check("gpu", "bf16")
    with pytest.raises(UserError, match="TensorRT: this Paddle was built without it; leave it off"):
        tensorrt.check("gpu:0", "fp32")


def test_a_missing_library_is_named_with_its_version():
    code = """
from ernie_vil2.errors import UserError
from ernie_vil2.serving import tensorrt
try:
    tensorrt.check("gpu:0", "fp16")
except UserError as error:
    print(error)
"""
    (line,) = run_with_gpu_wheel(code)
    assert "libnvinfer.so is not found, which this Paddle needs of TensorRT 8.5.3" in line


@on_paddle2
def test_the_settings(artefact, tmp_path):
    """Read back from Paddle's own Config."""
    code = f"""
from pathlib import Path
from paddle import inference
from ernie_vil2.serving import gpu, tensorrt
for precision in ("fp32", "fp16"):
    config = inference.Config("a.pdmodel", "a.pdiparams")
    gpu.use(config, precision, 0)
    engine = tensorrt.Engine(Path({str(artefact.shapes("text"))!r}), Path({str(tmp_path)!r}))
    tensorrt.configure(config, precision, engine)
    print(config.tensorrt_engine_enabled(), config.tensorrt_precision_mode().name)
    print(config.tuned_tensorrt_dynamic_shape(), config.trt_allow_build_at_runtime())
    print(config.shape_range_info_path())
"""
    path = str(artefact.shapes("text"))
    assert run_with_gpu_wheel(code) == [
        *("True Float32", "True False", path),
        *("True Half", "True False", path),
    ]


@on_paddle2
def test_batches_beyond_the_shapes(artefact, tiny_artefact):
    assert tensorrt.most_tokens(artefact, 4) == artefact.max_len
    with pytest.raises(UserError, match=r"batches of 5 with TensorRT: .*up to 4; .*--tensorrt 5"):
        tensorrt.most_tokens(artefact, 5)
    with pytest.raises(UserError, match="has no shapes for TensorRT: export it with --tensorrt"):
        tensorrt.most_tokens(Artefact.open(tiny_artefact), 1)


@on_paddle2
def test_another_engine_for_whatever_it_depends_on(artefact, tmp_path):
    card = ["2.6.2", [8, 5, 3], "A100", 8, 0]

    def name(artefact=artefact, tower="text", precision="fp32", runs_on=card):
        return tensorrt.name(artefact, tower, precision, runs_on)

    assert name() == name(Artefact.open(artefact.folder)) == name(replace(artefact, files={}))
    folder = shutil.copytree(artefact.folder, tmp_path / "other")
    with (folder / "tensorrt" / "text.pbtxt").open("a") as file:
        file.write("\n")
    others = [
        name(Artefact.open(reseal(folder))),
        name(tower="image"),
        name(precision="fp16"),
        *(name(runs_on=[*card[:-1], 6]), name(runs_on=["2.6.3", *card[1:]])),
    ]
    assert len({name(), *others}) == 6


def test_an_engine_is_whole_or_built_anew(tmp_path):
    engine = tensorrt.Engine(tmp_path / "text.pbtxt", tmp_path / "cache" / "text-fp32-1")
    file = engine.folder / "trt_serialized_1"
    with pytest.raises(KeyError), tensorrt.kept(engine):
        file.write_text("half of it")
        raise KeyError  # or the process is killed
    with tensorrt.kept(engine):
        assert not file.exists()
        file.write_text("whole")
    with tensorrt.kept(engine):
        assert file.read_text() == "whole"


def test_a_place_that_cannot_keep_engines(tmp_path):
    (tmp_path / "file").touch()
    engine = tensorrt.Engine(tmp_path, tmp_path / "file" / "text")
    message = r"cannot keep TensorRT's engine .*--tensorrt-cache"
    with pytest.raises(UserError, match=message), tensorrt.kept(engine):
        pass
