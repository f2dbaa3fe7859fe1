"""Weights that are damaged, or somebody else's, are called by their name."""

import pickle
import shutil
import zipfile

import numpy as np
import pytest

import ernie_vil2
from ernie_vil2.checkpoints.writer import CheckpointWriter
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.load import load_weights
from tests.support.checkpoints import damage
from tests.support.official_form import ARCH


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two checkpoints as a run writes them, with a whole configuration."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "vocab.txt").write_text("[PAD]\n[CLS]\n[SEP]\n[MASK]\n[UNK]\n")
    arch = [f"Arch.{t}.{k}={v}" for t in ("Image", "Text") for k, v in ARCH[t].items()]
    config = load_config("configs/base.yaml", [*arch, "Transform.size=32", "Tokenizer.max_len=10"])
    writer = CheckpointWriter(folder / "checkpoints", config, str(folder / "vocab.txt"))
    model = build_model(ARCH)
    for step in (1, 2):
        writer.save(model.state_dict(), {"w|moment": np.arange(5.0)}, {"step": step}, best=False)
    writer.close()
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run", symlinks=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "vocab.txt", "manifest.json"])
def test_a_flipped_bit_is_named(folder, name):
    ernie_vil2.load(folder)
    damage(folder / "checkpoints" / "step_00000002" / name, "flipped")
    for weights in (folder, folder / "checkpoints" / "latest"):
        for read in (ernie_vil2.load, lambda w: load_weights(build_model(ARCH), w)):
            with pytest.raises(UserError) as error:
                read(weights)
            message = str(error.value)
            assert f"is damaged ({name}" in message and "step_00000001 is good" in message
            assert "\n" not in message
    ernie_vil2.load(folder / "checkpoints" / "step_00000001")


def test_the_file_alone_is_compared_too(folder):
    path = folder / "checkpoints" / "step_00000002" / "model.safetensors"
    ernie_vil2.load(path, {"Arch": ARCH})
    damage(path, "flipped")
    with pytest.raises(UserError, match=r"model.safetensors does not match its checksum"):
        ernie_vil2.load(path, {"Arch": ARCH})


def test_weights_need_no_optimizer(folder):
    path = folder / "checkpoints" / "step_00000002"
    (path / "training.safetensors").unlink()
    (path / "state.json").unlink()
    ernie_vil2.load(path)
    (path / "manifest.json").unlink()  # as those of the first version
    ernie_vil2.load(path)


def pytorch(path, zipped):
    """A file as torch.save writes it, now (a ZIP archive) and before version 1.6."""
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}))
            archive.writestr("archive/version", "3\n")
    else:
        with open(path, "wb") as file:
            for item in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}):
                pickle.dump(item, file, 2)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["clip_cn_vit-b-16.pt", "pytorch_model.bin", "model.pdparams"])
def test_a_pytorch_file_is_called_so(tmp_path, zipped, name):
    pytorch(tmp_path / name, zipped)
    with pytest.raises(UserError, match=f"{name} is a PyTorch file: expected weights of Paddle"):
        ernie_vil2.load(tmp_path / name, {"Arch": ARCH})


def test_a_device_is_no_weights():
    with pytest.raises(UserError, match=r"/dev/null holds neither model.safetensors nor"):
        ernie_vil2.load("/dev/null")


def test_a_folder_of_pytorchs(tmp_path):
    pytorch(tmp_path / "pytorch_model.bin", True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a PyTorch file"):
        ernie_vil2.load(tmp_path)
