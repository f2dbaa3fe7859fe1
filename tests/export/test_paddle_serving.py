"""What the exporter writes is what Paddle Serving reads."""

import shutil

import paddle
import pytest
from google.protobuf import text_format

from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError
from ernie_vil2.export import paddle_serving as serving
from ernie_vil2.export.programs import export

on_paddle2 = pytest.mark.skipif(paddle.__version__ >= "3", reason="Paddle 3 writes no .pdmodel")


@pytest.fixture
def folder(tiny_artefact, tmp_path):
    return shutil.copytree(tiny_artefact, tmp_path / "artefact")


def read(path):
    """A configuration in either form."""
    message = serving._message_class()
    if path.name.endswith(".stream.prototxt"):
        return message.FromString(path.read_bytes())
    return text_format.Parse(path.read_text(), message())


@on_paddle2
def test_configurations_say_what_the_programs_take_and_give(folder):
    serving.write_serving(folder)
    for tower, feed, feed_type, shape in (
        ("image", "pixel_values", 1, [3, 16, 16]),
        ("text", "input_ids", 0, []),
    ):
        program = str(folder / "fp32" / tower)
        options = paddle.inference.Config(f"{program}.pdmodel", f"{program}.pdiparams")
        options.switch_ir_optim(False)
        options.disable_glog_info()
        predictor = paddle.inference.create_predictor(options)
        config = read(folder / "serving_server" / tower / "serving_server_conf.prototxt")
        (variable,) = config.feed_var
        assert [variable.name] == predictor.get_input_names() == [feed]
        assert (variable.alias_name, variable.feed_type) == (feed, feed_type)
        assert (list(variable.shape), variable.is_lod_tensor) == (shape, False)
        (variable,) = config.fetch_var
        assert [variable.name] == predictor.get_output_names()
        assert (variable.alias_name, variable.fetch_type) == (f"{tower}_embeds", 1)
        assert (list(variable.shape), variable.is_lod_tensor) == ([12], False)
        others = [
            *(folder / "serving_server" / tower).glob("*.stream.prototxt"),
            *(folder / "serving_client" / tower).glob("*.prototxt"),
        ]
        assert len(others) == 3
        assert all(read(path) == config for path in others)


@on_paddle2
def test_pixels_as_bytes(tiny_model, tiny_artefact, tmp_path):
    export(tiny_model, Tokenizer(tiny_artefact / "vocab.txt", 8), tmp_path, preprocess=True)
    serving.write_serving(tmp_path)
    config = read(tmp_path / "serving_client" / "image" / "serving_client_conf.prototxt")
    assert (config.feed_var[0].feed_type, list(config.feed_var[0].shape)) == (7, [16, 16, 3])


@on_paddle2
def test_weights_are_linked_and_a_second_export_replaces_them(folder, monkeypatch):
    serving.write_serving(folder)
    names = [f"{tower}.{kind}" for tower in ("image", "text") for kind in ("pdmodel", "pdiparams")]
    pairs = [(folder / "fp32" / n, folder / "serving_server" / n.split(".")[0] / n) for n in names]
    assert all(source.samefile(target) for source, target in pairs)

    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(serving.os, "link", no_links)  # as on FAT
    serving.write_serving(folder)
    for source, target in pairs:
        assert not source.samefile(target)
        assert source.read_bytes() == target.read_bytes()


@on_paddle2
def test_no_programs(folder):
    (folder / "fp32" / "text.pdiparams").unlink()
    with pytest.raises(UserError, match=r"text\.pdiparams is missing"):
        serving.write_serving(folder)
    (folder / "fp32" / "image.pdmodel").write_bytes(b"damaged" * 100)
    with pytest.raises(UserError, match=r"image\.pdmodel is damaged, or no program of Paddle 2"):
        serving.write_serving(folder)
    assert paddle.in_dynamic_mode()


def test_programs_of_paddle_3_are_refused(folder):
    for path in (folder / "fp32").glob("*.pdmodel"):
        path.rename(path.with_suffix(".json"))
    with pytest.raises(UserError, match=r"image\.json is a program of Paddle 3.*with Paddle 2\.6"):
        serving.write_serving(folder)
    assert not (folder / "serving_server").exists()
