"""Each fine-tuning configuration runs as its comment says, on drawings in the layout of its set.

The comment's own commands are run, on towers that are small but start from weights as they are
published: PaddleNLP's folder, or OpenAI's file with an image tower.
"""

import json
import re
import shlex
import shutil

import paddle
import pytest
import yaml

from ernie_vil2 import cli, commands
from ernie_vil2.config.load import load_config
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights import paddlenlp
from tests.support import download_layouts as layouts
from tests.support.paths import ROOT
from tests.support.training_runs import metrics
from tests.weights.clip.conftest import write as write_clip

CHINESE = {  # what PaddleNLP's folder can hold: one width, no projection
    "embed_dim": None,
    "Image": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
}
ENGLISH = {  # of tests/weights/clip/theirs.json
    "embed_dim": 24,
    "Image": {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2},
}
TEXT = {
    "name": "tiny",
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with weights as they are published: ErnieViL, ViT-B-16.pt; and words.txt."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "words.txt").write_text("\n".join(layouts.words()), encoding="utf-8")
    paddle.seed(0)
    base = load_config(ROOT / "configs" / "base.yaml").Arch.to_dict()
    image = {**base["Image"], **CHINESE["Image"]}
    model = build_model({"embed_dim": None, "Image": image, "Text": TEXT})
    paddlenlp.save_paddlenlp(model, folder / "ErnieViL", folder / "words.txt")
    shutil.copy(write_clip("openai-vit", folder / "theirs"), folder / "ViT-B-16.pt")
    return folder


@pytest.fixture
def rehearse(published, tmp_path, monkeypatch, capsys):
    """A configuration's name -> its commands are run; returns (report of each eval, output_dir)."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(published / "ViT-B-16.pt", tmp_path)

    def rehearse(name):
        file = f"configs/{name}.yaml"
        small = {
            "_BASE_": str(ROOT / file),
            "Global": {"device": "cpu", "max_steps": 3, "log_interval": 1, "eval_interval": 3},
            "Arch": {**CHINESE, "Text": TEXT},
            "Tokenizer": {"vocab_file": str(published / "words.txt")},
            "Transform": {"size": 32},
            "AMP": {"level": "O0"},
            "DataLoader": {
                "Train": {"global_batch_size": 16, "num_workers": 0},
                "Eval": {"num_workers": 0},
            },
            "Metric": {"bootstrap": 0},
        }
        small["Global"].update(save_interval=0, sample_views=0, log_to=[])
        if name.endswith(("flickr30k", "coco")):
            small["Arch"] = {**ENGLISH, "Text": {**TEXT, "hidden_size": 24, "pretrained": False}}
        else:
            small["Global"]["pretrained"] = str(published / "ErnieViL")
        (tmp_path / "configs").mkdir()
        (tmp_path / file).write_text(yaml.safe_dump(small))
        ran, reports = [], []
        out = tmp_path / load_config(file).Global.output_dir
        for tool, argv in commands_of(ROOT / file):
            assert cli.run(commands.main, [tool, *argv]) == 0, capsys.readouterr().err
            ran.append(tool)
            if tool == "eval" and (out / "eval" / "report.json").is_file():
                reports.append(json.loads((out / "eval" / "report.json").read_text()))
                (out / "eval" / "report.json").unlink()
        assert "train" in ran and all(0 < loss < 10 for loss in metrics(out).values())
        assert len(metrics(out)) == 3 and (out / "checkpoints" / "best").exists()
        return reports, out

    return rehearse


def commands_of(path):
    """(tool, arguments) of each command in a configuration's comment, loops unrolled."""
    comment = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))[0]
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^# ?", "", comment)).splitlines()
    loop = [""]
    for line in lines:
        if found := re.search(r"for split in (.*); do", line):
            loop = found[1].split()
        elif line.strip() == "done":
            loop = [""]
        elif found := re.search(r"^ +python .*?tools/(\w+)\.py (.*)", line):
            for split in loop:
                words = shlex.split(found[2].replace("$split", split), comments=True)
                yield found[1].replace("_", "-"), words


def check(report, texts=32, images=16):
    assert report["text_to_image"]["queries"] == texts
    assert report["image_to_text"]["queries"] == report["text_to_image"]["candidates"] == images
    assert report["protocol"] == "chinese_clip" and report["bad_records"] == 0


def test_flickr30k_cn(rehearse, tmp_path):
    layouts.chinese_clip(tmp_path / "data/datasets/Flickr30k-CN")
    layouts.flickr30k_cn(tmp_path)  # the authors' files instead
    reports, _ = rehearse("finetune_flickr30k_cn")
    assert len(reports) == 2  # of the validation and the test set
    check(reports[0])
    check(reports[1])
    rows = build_reader("folder", root="flickr30k-images", jsonl="data/flickr30k_cn/train.jsonl")
    assert [rows[i].captions for i in range(16)] == [
        tuple(layouts.chinese(thing)) for thing in layouts.THINGS
    ]


def test_coco_cn(rehearse, tmp_path):
    layouts.coco_cn(tmp_path / "data")
    (report,), _ = rehearse("finetune_coco_cn")
    check(report)
    train = (tmp_path / "data/coco-cn/train.jsonl").read_text().splitlines()
    assert {json.loads(line)["image"].split("/")[0] for line in train} == {"train2014", "val2014"}


def test_aic_icc(rehearse, tmp_path):
    layouts.aic_icc(tmp_path / "data/aic")
    (report,), _ = rehearse("finetune_aic_icc")
    check(report)


def test_flickr30k(rehearse, tmp_path):
    layouts.karpathy_flickr30k(tmp_path / "data/flickr30k")
    (report,), _ = rehearse("finetune_flickr30k")
    check(report)


def test_coco(rehearse, tmp_path):
    layouts.karpathy_coco(tmp_path / "data/coco")
    (report,), _ = rehearse("finetune_coco")
    check(report)


def test_muge(rehearse, tmp_path, capsys):
    sets = tmp_path / "data/datasets/Multimodal_Retrieval"
    layouts.chinese_clip(sets, muge=True)
    (report,), out = rehearse("finetune_muge")  # the test set's queries tell nothing to score
    check(report, texts=16)
    queries, pictures = sets / "MR_test_queries.jsonl", sets / "MR_test_imgs.tsv"
    judge(out / "submission.jsonl", queries, pictures)
    # where the answers are known, the judge's own count of a submission is the report's
    file = tmp_path / "valid.jsonl"
    argv = ["-c", "configs/finetune_muge.yaml", "-w", str(out), "--muge", str(file)]
    assert cli.run(commands.main, ["eval", *argv]) == 0, capsys.readouterr().err
    found = judge(file, sets / "MR_valid_queries.jsonl", sets / "MR_valid_imgs.tsv")
    of_report = [report["text_to_image"][f"R@{k}"] for k in (1, 5, 10)]
    assert found == pytest.approx(of_report) and 0 < found[2] <= 1


def judge(submission, queries, pictures):
    """What MUGE's page asks of a submission; returns R@1, R@5 and R@10 where answers are known.

    A line a query, in the form of the validation queries: item_ids are ten pictures of the set's,
    the best first, and a query is right at k if one of the first k is right.
    """
    asked = [json.loads(line) for line in queries.read_text(encoding="utf-8").splitlines()]
    given = [json.loads(line) for line in submission.read_text(encoding="utf-8").splitlines()]
    known = {int(line.split("\t")[0]) for line in pictures.read_text().splitlines()}
    assert [line["query_id"] for line in given] == [line["query_id"] for line in asked]
    hits = [0, 0, 0]
    for query, line in zip(asked, given):
        assert set(line) == {"query_id", "query_text", "item_ids"}
        assert line["query_text"] == query["query_text"]
        assert len(line["item_ids"]) == len(set(line["item_ids"]) & known) == 10
        for place, k in enumerate((1, 5, 10)):
            hits[place] += bool(set(line["item_ids"][:k]) & set(query.get("item_ids", ())))
    return [count / len(asked) for count in hits]


@pytest.mark.parametrize("name", ["flickr30k_cn", "coco_cn", "muge", "aic_icc"])
def test_the_chinese_ones_start_from_a_released_name(name):
    config = load_config(ROOT / "configs" / f"finetune_{name}.yaml")
    assert config.Global.pretrained in paddlenlp.released()
