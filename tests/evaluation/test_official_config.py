"""The official program's YAML is evaluated by one switch."""

import base64
import json
import re

import numpy as np
import pytest

from ernie_vil2 import cli
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.official_config import read_official
from ernie_vil2.evaluation.official_dump import official_table, read_dump
from ernie_vil2.weights.official import save_official
from tests.support.shapes import COLORS, SHAPES, draw, write_run
from tools import eval as eval_tool

FLAT = """\
# the official packages/configs/ernie_vil_base.yaml, with other files
input_dtype: "int64"
device: "gpu"
infer_batch_size: 7
max_text_seqlen: 10
vocab_file: "./packages/vocab.txt"
text_model_config: "./packages/ernie.json"
test_file: "./coco/rows.tsv"
output_file: "./test_out/cross_modal_embeddings.out"
init_from_params: "./params.pdparams"
pad_token: 0
cls_token: 1
sep_token: 2
mask_token: 3
unk_token: 4"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A working directory as the official repository's, and our configuration of tiny towers."""
    from ernie_vil2.config.load import load_config
    from ernie_vil2.models.dual_encoder import build_model

    base = write_run(tmp_path, Arch={"embed_dim": None})
    model = build_model(load_config(base).Arch)
    for name in ("packages", "packages/configs", "coco"):
        (tmp_path / name).mkdir()
    (tmp_path / "vocab.txt").rename(tmp_path / "packages" / "vocab.txt")
    text = load_config(base).Arch.Text.to_dict()
    for key in ("name", "pretrained", "epsilon", "recompute", "lora"):
        text.pop(key, None)
    text.update(sent_type_vocab_size=4, task_type_vocab_size=3)
    (tmp_path / "packages" / "ernie.json").write_text(json.dumps(text))
    rng = np.random.default_rng(0)
    things = [(color, shape) for color in COLORS for shape in SHAPES]
    with open(tmp_path / "coco" / "rows.tsv", "w") as file:
        for i in range(10):  # of 2 to 5 columns
            color, shape = things[i % len(things)]
            picture = base64.b64encode(draw(color, shape, rng)).decode()
            file.write("\t".join([f"a {color} {shape}", *["x"] * (i % 4), picture]) + "\n")
    save_official(model, tmp_path / "params.pdparams")
    (tmp_path / "packages" / "configs" / "flat.yaml").write_text(FLAT)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "packages" / "configs" / "flat.yaml", base


def test_a_published_figure_by_a_switch(repository, capsys):
    """The model's own embeddings of the rows, in their order, and the official table of them."""
    flat, base = repository
    options = ["--official", str(flat), "-c", str(base), "--examples", "0"]
    assert cli.run(eval_tool.main, [*options, "-o", "DataLoader.Eval.num_workers=0"]) == 0
    printed = capsys.readouterr().out
    folder = flat.parents[2] / "test_out"
    report = json.loads((folder / "report.json").read_text())
    assert report["protocol"] == "official" and report["text_to_image"]["queries"] == 10
    assert official_table(report) in printed and "MRR" in printed

    import paddle

    import ernie_vil2
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.data.transforms import eval_transform

    dump = read_dump(folder / "cross_modal_embeddings.out")
    lines = (flat.parents[2] / "coco/rows.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    model = ernie_vil2.load(flat.parents[2] / "params.pdparams", base)
    pixels = np.stack([eval_transform(32)(base64.b64decode(row[-1])) for row in rows])
    ids = Tokenizer(flat.parents[1] / "vocab.txt", max_len=10)([row[0] for row in rows])
    for found, expected in (
        (dump.image_embeds, model.encode_image(paddle.to_tensor(pixels))),
        (dump.text_embeds, model.encode_text(paddle.to_tensor(ids))),
    ):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_what_it_says_and_what_the_command_line_says_above_it(repository, monkeypatch, tmp_path):
    flat, base = repository
    run = read_official(flat, base)
    config = run.config
    assert (config.Tokenizer.max_len, config.DataLoader.Eval.batch_size) == (10, 7)
    assert (config.Metric.protocol, config.Global.device) == ("official", "auto")
    assert config.Arch.Text.intermediate_size == 64 == 2 * config.Arch.Text.hidden_size
    assert run.dump.name == "cross_modal_embeddings.out"
    assert read_official(flat, base, ["Metric.protocol=strict"]).config.Metric.protocol == "strict"
    flat.write_text(FLAT.replace('"gpu"', '"cpu"'))
    assert read_official(flat, base).config.Global.device == "cpu"
    flat.write_text(FLAT.replace("./params.pdparams", "./params/your_model_weights_path"))
    assert str(read_official(flat, base, weights="other").weights) == "other"
    flat.write_text(FLAT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_official(flat, base).weights == tmp_path / "params.pdparams"
    file = tmp_path / "packages" / "ernie.json"
    text = json.loads(file.read_text())
    file.write_text(json.dumps({k: text[k] for k in text if k != "intermediate_size"}))
    assert read_official(flat, base).config.Arch.Text.intermediate_size == 128


@pytest.mark.parametrize(
    "change, said",
    [
        (("infer_batch_size", "batch_size"), "batch_size is no key of the official YAML"),
        (("max_text_seqlen: 10", ""), "max_text_seqlen is missing, which run_infer.py needs"),
        (("max_text_seqlen: 10", "max_text_seqlen: ten"), "max_text_seqlen is 'ten'"),
        (("cls_token: 1", "cls_token: 101"), r"cls_token is 101, but \[CLS\] is 1 in .*vocab.txt"),
        (("rows.tsv", "none.tsv"), "test_file is ./coco/none.tsv, which is no file"),
        (("ernie.json", "vocab.txt"), "vocab.txt is no JSON"),
        ((FLAT, "- 1"), "expected the flat YAML that run_infer.py takes"),
        ((FLAT, "Global: {seed: 1}"), "Global is no key of the official YAML"),
    ],
)
def test_mistakes_in_one_line(repository, change, said):
    flat, base = repository
    flat.write_text(FLAT.replace(*change))
    with pytest.raises(UserError) as error:
        read_official(flat, base)
    assert re.search(said, str(error.value)) and "\n" not in str(error.value)


def test_a_text_tower_that_ours_is_not(repository):
    flat, base = repository
    file = flat.parents[1] / "ernie.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "emb_size": 8}))
    with pytest.raises(UserError, match=r"ernie\.json: emb_size says something of the text tower"):
        read_official(flat, base)
