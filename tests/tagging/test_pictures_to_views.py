"""From raw pictures to six trained views by the commands alone: tag, shard, vocab, train."""

import json

import numpy as np
from PIL import Image

from ernie_vil2.commands import prepare_data
from ernie_vil2.data.formats.build import build_reader
from tests.support import detector
from tests.support.shapes import write_run
from tests.support.training_runs import metrics, train

VIEWS = ["image1", "image2"], ["caption1", "caption2", "tags1", "tags2"]
PAIRS = [
    ("image1", "image2"),
    ("caption1", "caption2"),
    ("tags1", "tags2"),
    ("image1", "caption1"),
    ("image2", "tags1"),
    ("caption2", "tags2"),
]


def test_raw_pictures_become_six_views(detector_folder, tmp_path):
    rng, seen = np.random.default_rng(7), []
    (tmp_path / "pictures").mkdir()
    with open(tmp_path / "captions.jsonl", "w") as lines:
        for number in range(24):
            image, things = detector.draw(rng, int(rng.integers(1, 4)))
            Image.fromarray(image).save(tmp_path / "pictures" / f"{number}.png")
            lines.write(json.dumps({"image": f"{number}.png", "caption": "a picture"}) + "\n")
            seen.append({detector.NAMES[name] for name, _ in things})
    pictures = ["name=folder", f"root={tmp_path / 'pictures'}", f"jsonl={tmp_path}/captions.jsonl"]
    tags, shards = tmp_path / "tags", tmp_path / "shards"
    prepare_data.main(
        ["tag", "--dataset", *pictures, "--from", "detector", detector_folder, "--out", str(tags)]
    )
    tagged = [*pictures, f"tags_file={tags / 'tags.jsonl'}"]
    options = ["--records", "10", "--out", str(shards)]
    prepare_data.main(["shard", "--dataset", *tagged, *options])
    tars = sorted(map(str, shards.glob("*.tar")))
    assert [set(record.tags) for record in build_reader("shards", path=tars)] == seen
    vocab = tmp_path / "words.txt"
    prepare_data.main(["vocab", "--input", *tars, "--out", str(vocab)])

    config = write_run(
        tmp_path,
        Tokenizer={"vocab_file": str(vocab), "max_len": 16},
        Views={"image": VIEWS[0], "text": VIEWS[1]},
        Loss={"pairs": [{"views": list(pair)} for pair in PAIRS]},
        DataLoader={
            "Train": {
                "dataset": {"name": "shards", "path": tars},
                "shuffle": {"mode": "shards", "window": 2},
                "batch_size": 8,
            }
        },
    )
    rows = len(vocab.read_text().splitlines())
    train(config, f"Arch.Text.vocab_size={rows}", "Global.max_steps=6")
    for one, other in PAIRS:
        assert np.isfinite(metrics(tmp_path / "out", f"train/{one}-{other}")[6])
    assert not (tmp_path / "out" / "bad_records.jsonl").exists()
