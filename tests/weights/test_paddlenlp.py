"""PaddleNLP's names and folders, as it writes them and as we do."""

import functools
import http.server
import importlib
import shutil
import threading

import numpy as np
import paddle
import pytest

import ernie_vil2
from ernie_vil2 import cli
from ernie_vil2.commands import convert as command
from ernie_vil2.errors import UserError
from ernie_vil2.files.safetensors import read_safetensors, write_safetensors
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.paddlenlp import save_paddlenlp
from ernie_vil2.weights.sources import resolve
from ernie_vil2.weights.vocabulary import own_vocabulary
from tests.support.official_form import ARCH, embed, random_inputs

NAME = "ernie_vil-2.0-base-zh"


# -- Written folders -------------------------------------------------------------------------------


def paddlenlp_outputs(folder, numbers):
    from paddlenlp.transformers import ErnieViLModel

    model = ErnieViLModel.from_pretrained(str(folder))
    model.eval()
    with paddle.no_grad():
        out = model(
            input_ids=paddle.to_tensor(numbers["input_ids"]),
            pixel_values=paddle.to_tensor(numbers["pixel_values"]),
        )
    return out.image_embeds.numpy(), out.text_embeds.numpy(), float(model.temperature)


@pytest.mark.parametrize("source", ["fixture", "other sizes"])
def test_paddlenlp_loads_what_we_save(fixtures_dir, tmp_path, source):
    if source == "fixture":
        model = ernie_vil2.load(fixtures_dir / "paddlenlp_tiny")
        numbers = np.load(fixtures_dir / "paddlenlp_tiny" / "io.npz")
    else:
        # PaddleNLP's text tower has this epsilon, whatever its config says
        model = build_model({**ARCH, "Text": {**ARCH["Text"], "epsilon": 1e-12}})
        model.eval()
        numbers = random_inputs()
    ernie_vil2.save_paddlenlp(model, tmp_path / "saved")
    images, texts, temperature = paddlenlp_outputs(tmp_path / "saved", numbers)
    ours = embed(model, numbers)
    np.testing.assert_allclose(images, ours[0], atol=1e-5)
    np.testing.assert_allclose(texts, ours[1], atol=1e-5)
    assert temperature == float(model.temperature)

    again = ernie_vil2.load(tmp_path / "saved")
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), tensor.numpy(), name)


def test_paddlenlps_other_epsilon_is_said(official, tmp_path, logged):
    weights, config, numbers = official
    model = ernie_vil2.load(weights, config)
    ernie_vil2.save_paddlenlp(model, tmp_path)
    assert "epsilon 1e-12, this model has 1e-05" in logged.text
    images, texts, _ = paddlenlp_outputs(tmp_path, numbers)
    np.testing.assert_allclose(images, embed(model, numbers)[0], atol=1e-5)
    np.testing.assert_allclose(texts, embed(model, numbers)[1], atol=1e-4)


# -- model.safetensors -----------------------------------------------------------------------------


@pytest.fixture
def safe_folder(paddlenlp_folder, tmp_path):
    """The same model as PaddleNLP writes it when asked for safetensors."""
    from paddlenlp.transformers import ErnieViLModel

    model = ErnieViLModel.from_pretrained(str(paddlenlp_folder))
    model.save_pretrained(str(tmp_path / "safe"), safe_serialization=True)
    assert not (tmp_path / "safe" / "model_state.pdparams").exists()
    return tmp_path / "safe"


def test_a_folder_with_safetensors(fixtures_dir, safe_folder):
    assert resolve(safe_folder) == safe_folder
    numbers = np.load(fixtures_dir / "paddlenlp_tiny" / "io.npz")
    images, texts = embed(ernie_vil2.load(safe_folder), numbers)
    np.testing.assert_allclose(images, numbers["image_embeds_normalized"], atol=1e-5)
    np.testing.assert_allclose(texts, numbers["text_embeds_normalized"], atol=1e-5)


def test_safetensors_by_pytorch_are_refused(safe_folder):
    arrays = read_safetensors(safe_folder / "model.safetensors")
    write_safetensors(safe_folder / "model.safetensors", arrays, {"format": "pt"})
    with pytest.raises(UserError, match=r"model.safetensors is a PyTorch file"):
        ernie_vil2.load(safe_folder)


def test_nothing_stale_is_read_instead(safe_folder):
    model = ernie_vil2.load(safe_folder)
    with pytest.raises(UserError, match=r"holds other weights, model.safetensors"):
        ernie_vil2.save_paddlenlp(model, safe_folder)
    with paddle.no_grad():
        model.temperature.set_value(paddle.to_tensor([1.5]))
    save_paddlenlp(model, safe_folder, force=True)
    assert float(ernie_vil2.load(safe_folder).temperature) == 1.5


# -- Released names --------------------------------------------------------------------------------


def download_from(port: int, monkeypatch, cache) -> None:
    """Let PaddleNLP download from a server on loopback, into `cache`."""
    bos_download = importlib.import_module("paddlenlp.utils.download.bos_download")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(bos_download, "MODEL_HOME", str(cache))
    monkeypatch.setattr(
        bos_download,
        "BOS_URL_TEMPLATE_WITHOUT_REVISION",
        f"http://127.0.0.1:{port}/{{repo_type}}/community/{{repo_id}}/{{filename}}",
    )


@pytest.fixture
def server(paddlenlp_folder, fixtures_dir, tmp_path, monkeypatch):
    """PaddleNLP's server of released files, on loopback; gives the paths that were asked for."""
    place = tmp_path / "server" / "models" / "community" / "PaddlePaddle" / NAME
    shutil.copytree(paddlenlp_folder, place)
    (place / "vocab.txt").write_text("[PAD]\n[CLS]\n[SEP]\n[MASK]\n[UNK]\n")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

        def copyfile(self, source, outputfile):
            cut = (tmp_path / "server" / "cut").exists() and self.path.endswith("pdparams")
            outputfile.write(source.read(1000 if cut else -1))

    handler = functools.partial(Handler, directory=str(tmp_path / "server"))
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    download_from(served.server_port, monkeypatch, tmp_path / "cache")
    yield asked
    served.shutdown()
    served.server_close()


@pytest.mark.parametrize("name", [NAME, f"PaddlePaddle/{NAME}"])
def test_a_released_name_is_downloaded_once(server, fixtures_dir, name):
    numbers = np.load(fixtures_dir / "paddlenlp_tiny" / "io.npz")
    images, _ = embed(ernie_vil2.load(name), numbers)
    np.testing.assert_allclose(images, numbers["image_embeds_normalized"], atol=1e-5)
    first = len(server)
    assert first and own_vocabulary(name)["vocab_file"].endswith("vocab.txt")
    ernie_vil2.load(name)
    assert len(server) == first


def test_convert_from_a_released_name(server, tmp_path):
    argv = ["--from", NAME, "--to", "ernie_vil2", "--out", str(tmp_path / "ours")]
    assert cli.run(command.main, argv) == 0
    assert (tmp_path / "ours" / "vocab.txt").is_file()
    assert float(ernie_vil2.load(tmp_path / "ours").temperature) == float(
        ernie_vil2.load(NAME).temperature
    )


def test_a_download_that_breaks_off_is_not_taken_for_whole(server, tmp_path):
    (tmp_path / "server" / "cut").touch()
    with pytest.raises(UserError, match=f"weights {NAME} cannot be downloaded"):
        ernie_vil2.load(NAME)
    (tmp_path / "server" / "cut").unlink()
    ernie_vil2.load(NAME)


def test_a_server_without_the_weights(server, tmp_path):
    place = tmp_path / "server" / "models" / "community" / "PaddlePaddle" / NAME
    (place / "model_state.pdparams").unlink()
    with pytest.raises(UserError, match=r"has no model.safetensors or model_state.pdparams of"):
        ernie_vil2.load(NAME)


def test_offline_is_one_line(monkeypatch, tmp_path, capsys):
    download_from(9, monkeypatch, tmp_path / "cache")  # nobody listens there
    argv = ["--from", NAME, "--to", "official", "--out", str(tmp_path / "o.pdparams")]
    assert cli.run(command.main, argv) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"the weights {NAME} cannot be downloaded" in message
    assert "ConnectionError" in message and not (tmp_path / "o.pdparams").exists()


def test_a_name_that_is_nearly_right():
    with pytest.raises(UserError, match=f'did you mean "{NAME}"'):
        ernie_vil2.load("ernie_vil-2.0-base")
