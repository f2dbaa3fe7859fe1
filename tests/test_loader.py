"""Order of the data, and worker processes over a real set with a broken row."""

import base64
import json

import cv2
import numpy as np
import pytest

from ernie_vil2.config import load_config
from ernie_vil2.data.loader import GlobalBatches, TrainingViews, permute, training_loader
from ernie_vil2.data.records import Ledger, build_reader
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import TrainTransform
from ernie_vil2.data.views import ViewMaker, key
from ernie_vil2.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 6396])
def test_permute_is_a_permutation(size):
    assert sorted(permute(np.arange(size), size, seed=3)) == list(range(size))


def test_permute_shuffles():
    size = 10_007
    one, two = (permute(np.arange(size), size, seed) for seed in (1, 2))
    assert abs(np.corrcoef(one, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
    assert (np.diff(one) == 1).sum() < 10


def test_permute_needs_no_table():
    assert permute(np.array([0, 10**12 - 1]), 10**12, seed=1).max() < 10**12


def batches(world, size=23, batch=4, **options):
    options = {"seed": 5, "shuffle": True, "first_step": 0, "last_step": 6, **options}
    return [GlobalBatches(size, batch // world, rank, world, **options) for rank in range(world)]


def test_an_epoch_visits_each_record_once():
    (one,) = batches(1)
    assert one.steps_per_epoch == 5
    first, second = (np.concatenate([one.indices(s) for s in range(e, e + 5)]) for e in (0, 5))
    assert len(set(first)) == len(set(second)) == 20
    assert list(first) != list(second)


def test_ranks_share_the_global_batches_of_one_process():
    (one,), two = batches(1), batches(2)
    for step in range(6):
        assert [*two[0].indices(step), *two[1].indices(step)] == list(one.indices(step))


def test_resume_goes_on_where_it_was():
    (whole,), (rest,) = batches(1), batches(1, first_step=3)
    assert list(whole)[3:] == list(rest)
    assert len(rest) == 3


def test_unshuffled_order():
    (one,) = batches(1, shuffle=False)
    assert list(one.indices(1)) == [4, 5, 6, 7]


def test_set_smaller_than_a_batch():
    with pytest.raises(UserError, match="3 records, a global batch 4"):
        batches(2, size=3)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "red", "dot", "the", "picture"]
    path.write_text("\n".join([*words, "contains", ",", "sky", "car", "该", "图", "片", "红"]))
    return path


@pytest.fixture
def tsv(tmp_path):
    """Six pictures, the third cut off, the fifth without tags."""
    rows = []
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 256, [40, 50, 3], np.uint8)
        data = cv2.imencode(".png", image)[1].tobytes()
        data = data[: len(data) // 2] if i == 2 else data
        tags = "" if i == 4 else "\tsky|car|red"
        rows.append(f"a red dot\timage{i}\t{base64.b64encode(data).decode()}{tags}\n")
    path = tmp_path / "train.tsv"
    path.write_text("".join(rows))
    return path


def view_maker(vocab, *overrides):
    config = load_config(
        "configs/base.yaml", ["Transform.size=32", "Arch.Image.img_size=32", *overrides]
    )
    return ViewMaker(
        **config.Views,
        transform=TrainTransform(**config.Transform),
        tokenizer=Tokenizer(vocab, max_len=16),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_record_is_skipped_counted_and_named(tsv, vocab, tmp_path, workers):
    views, reader = view_maker(vocab), build_reader("tsv", path=str(tsv))
    ledger = Ledger(tmp_path / "bad.jsonl")
    order = GlobalBatches(6, 3, 0, 1, seed=0, shuffle=False, first_step=0, last_step=4)
    seen = []
    for batch in training_loader(TrainingViews(reader, views, ledger, seed=0), order, workers):
        assert batch["pixel_values"].shape == [6, 3, 32, 32]
        assert batch["input_ids"].shape[0] == 6
        assert batch["ids"].shape == [3, 2]
        seen.append(batch["valid"].numpy().tolist())
    assert seen == [[True, True, False], [True] * 3] * 2
    assert ledger.count == 1
    (line,) = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line)["source"].endswith("train.tsv:3")


def test_workers_do_not_change_the_batches(tsv, vocab, tmp_path):
    dataset = TrainingViews(
        build_reader("tsv", path=str(tsv)), view_maker(vocab), Ledger(tmp_path / "bad"), seed=0
    )
    order = GlobalBatches(6, 2, 0, 1, seed=0, shuffle=True, first_step=0, last_step=6)
    alone, helped = (list(training_loader(dataset, order, workers)) for workers in (0, 2))
    for one, other in zip(alone, helped):
        for name in one:
            assert (one[name] == other[name]).all(), name


def sample(vocab, tsv, *overrides, row=0, draw=False, seed=0):
    record = build_reader("tsv", path=str(tsv))[row]
    maker = view_maker(vocab, *overrides)
    return maker, record, maker(record, np.random.default_rng(seed), draw)


def test_two_augmentations_and_one_text(tsv, vocab):
    _, record, views = sample(vocab, tsv)
    assert not np.array_equal(views["image1"], views["image2"])
    assert np.array_equal(views["text1"], views["text2"])
    assert views["ids"].tolist() == [key(record.id), key("a red dot")]


def test_batch_draw_decides_caption_or_tags(tsv, vocab):
    maker, record, views = sample(vocab, tsv, draw=True)
    text = maker.tokenizer.decode(views["text1"])
    assert text.startswith("[CLS] the picture contains")
    assert all(tag in text for tag in record.tags)
    assert views["ids"][1] == key("car\nred\nsky")  # whatever their order in the sentence


def test_record_without_tags_uses_its_caption(tsv, vocab):
    maker, _, views = sample(vocab, tsv, row=4, draw=True)
    assert maker.tokenizer.decode(views["text1"]) == "[CLS] a red dot [SEP]"


def test_draw_per_sample_follows_its_probability(tsv, vocab):
    maker = view_maker(vocab, "Views.draw.per=sample", "Views.draw.tags_prob=0.3")
    record = build_reader("tsv", path=str(tsv))[0]
    drawn = [
        maker(record, np.random.default_rng(seed), batch_draw=False)["ids"][1] != key("a red dot")
        for seed in range(400)
    ]
    assert 0.22 < np.mean(drawn) < 0.38


def test_caption_and_tags_as_views_of_their_own(tsv, vocab):
    six = "Views.text=[caption1, caption2, tags1, tags2]"
    pairs = "Loss.pairs=[{views: [caption1, tags1]}, {views: [image1, image2]}]"
    maker, _, views = sample(vocab, tsv, six, pairs)
    assert np.array_equal(views["tags1"], views["tags2"])
    assert not np.array_equal(views["caption1"], views["tags1"])
    assert len(views["ids"]) == 3
    batch = maker.collate([views, {**maker.placeholder(), "valid": False}])
    assert batch["pixel_values"].shape == (4, 3, 32, 32)
    assert batch["input_ids"].shape[0] == 8
    assert np.array_equal(batch["pixel_values"][2], views["image2"])  # view after view
    assert batch["valid"].tolist() == [True, False]
