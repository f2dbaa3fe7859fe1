"""PaddleNLP's names, files and configurations, as it writes them and as people spoil them."""

import functools
import http.server
import importlib
import json
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
from ernie_vil2.weights import load as convert
from ernie_vil2.weights import paddlenlp
from tests.weights.test_load import embed

NAME = "ernie_vil-2.0-base-zh"


@pytest.fixture
def folder(fixtures_dir, tmp_path):
    """A copy of PaddleNLP's folder."""
    for name in ("config.json", "model_state.pdparams"):
        (tmp_path / "nlp").mkdir(exist_ok=True)
        shutil.copyfile(fixtures_dir / "paddlenlp_tiny" / name, tmp_path / "nlp" / name)
    return tmp_path / "nlp"


# -- model.safetensors -----------------------------------------------------------------------------


@pytest.fixture
def safe_folder(folder, tmp_path):
    """The same model as PaddleNLP writes it when asked for safetensors."""
    from paddlenlp.transformers import ErnieViLModel

    model = ErnieViLModel.from_pretrained(str(folder))
    model.save_pretrained(str(tmp_path / "safe"), safe_serialization=True)
    assert not (tmp_path / "safe" / "model_state.pdparams").exists()
    return tmp_path / "safe"


def test_a_folder_with_safetensors(fixtures_dir, safe_folder):
    assert convert.resolve(safe_folder) == safe_folder
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
    convert.save_paddlenlp(model, safe_folder, force=True)
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
def server(folder, fixtures_dir, tmp_path, monkeypatch):
    """PaddleNLP's server of released files, on loopback; gives the paths that were asked for."""
    place = tmp_path / "server" / "models" / "community" / "PaddlePaddle" / NAME
    shutil.copytree(folder, place)
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
    assert first and convert.own_vocabulary(name)["vocab_file"].endswith("vocab.txt")
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


# -- config.json -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "section, key, value, said",
    [
        ("text", "hidden_size", [64], "text_config.hidden_size is [64]; expected a whole number"),
        ("text", "hidden_size", "64", "text_config.hidden_size is '64'; expected a whole number"),
        ("text", "hidden_size", 0, "text_config.hidden_size is 0"),
        ("text", "hidden_size", -64, "text_config.hidden_size is -64"),
        ("text", "hidden_size", 64.5, "text_config.hidden_size is 64.5"),
        ("text", "hidden_size", True, "text_config.hidden_size is true"),
        ("text", "hidden_size", None, "text_config.hidden_size is null"),
        ("text", "hidden_size", 10**30, "text_config.hidden_size is 1000"),
        ("text", "hidden_size", 1 << 20, "1048576, but the weights beside it have 64"),
        ("text", "vocab_size", 9_999_999, "9999999, but the weights beside it have 883"),
        ("text", "num_hidden_layers", 999, "999, but the weights beside it have 2"),
        ("text", "max_position_embeddings", 32, "32, but the weights beside it have 64"),
        ("text", "intermediate_size", 255, "255, but the weights beside it have 256"),
        ("text", "num_attention_heads", 7, "no multiple of num_attention_heads 7"),
        ("text", "hidden_act", "swish2", "hidden_act is 'swish2'; expected gelu or relu"),
        ("text", "hidden_act", ["gelu"], "hidden_act is ['gelu']"),
        ("text", "hidden_dropout_prob", 1.5, "expected a number from 0 to below 1"),
        ("text", "hidden_dropout_prob", float("nan"), "expected a number from 0 to below 1"),
        ("text", "pad_token_id", 1, "pad_token_id is 1; expected 0"),
        ("text", "task_id", 3, "task_id is 3, but the weights know 3 tasks"),
        ("text", "task_id", "x", "task_id is 'x'"),
        ("vision", "hidden_act", "gelu", "hidden_act is 'gelu'; expected quick_gelu"),
        ("vision", "patch_size", 0, "vision_config.patch_size is 0"),
        ("vision", "patch_size", 128, "128, but the weights beside it have 16"),
        ("vision", "image_size", 96, "96, but the weights beside it have 16 patches"),
        ("vision", "image_size", 1 << 14, "16384, but the weights beside it have 16 patches"),
        ("vision", "num_attention_heads", 1000, "no multiple of num_heads 1000"),
        ("vision", "layer_norm_eps", "tiny", "expected a number above 0"),
        ("text", None, [1, 2], "text_config is [1, 2]; expected an object"),
        ("vision", None, "base", "vision_config is 'base'; expected an object"),
    ],
)
def test_odd_values_are_one_line(folder, section, key, value, said):
    content = json.loads((folder / "config.json").read_text())
    content = {name: content[name] for name in ("model_type", "text_config", "vision_config")}
    if key:
        content[f"{section}_config"][key] = value
    else:
        content[f"{section}_config"] = value
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        ernie_vil2.load(folder)
    message = str(error.value)
    assert said in message and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("text", ["[" * 100_000, '{"text_config": ' + "9" * 5000 + "}", "\ud800"])
def test_json_that_cannot_be_read(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"config.json"):
        ernie_vil2.load(folder)


def test_ratio_survives_every_size():
    for hidden in range(1, 200):
        for intermediate in range(1, 800, 7):
            assert int(paddlenlp._ratio(intermediate, hidden) * hidden) == intermediate
