"""The batches of a real set with a broken row, and what its worker processes may suffer."""

import base64
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import threading

import cv2
import numpy as np
import paddle
import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.formats.tsv import TsvReader
from ernie_vil2.data.keys import key
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.loader import TrainingLoader, TrainingViews
from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.data.orders import EpochOrder
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.train_transform import TrainTransform
from ernie_vil2.data.views import ViewMaker
from ernie_vil2.errors import UserError


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


def training_views(tsv, vocab, tmp_path, *overrides):
    reader = build_reader("tsv", path=str(tsv))
    return TrainingViews(
        reader, view_maker(vocab, *overrides), Ledger(tmp_path / "bad.jsonl"), seed=0
    )


def order(size=6, batch_size=3, batches=6, rank=0, world=1, **options):
    options = {"first_batch": 0, **options}
    epochs = EpochOrder(size, seed=0, shuffle=options.pop("shuffle", True))
    return GlobalBatches(epochs, batch_size, rank, world, last_batch=batches, **options)


def arrays(loader):
    """Batches as lists of dicts of arrays, ids among them."""
    return [
        [{k: np.asarray(v) for k, v in {**m.pop("ids"), **m}.items()} for m in batch]
        for batch in loader
    ]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, expected_batch in zip(batches, expected):
        assert len(batch) == len(expected_batch)
        for micro, expected_micro in zip(batch, expected_batch):
            assert micro.keys() == expected_micro.keys()
            for name in micro:
                assert micro[name].dtype == expected_micro[name].dtype
                assert np.array_equal(micro[name], expected_micro[name]), name


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_record_is_skipped_counted_and_named(tsv, vocab, tmp_path, workers):
    dataset = training_views(tsv, vocab, tmp_path)
    loader = TrainingLoader(dataset, order(batches=4, shuffle=False), workers)
    assert len(loader) == 4
    seen = []
    for (batch,) in loader:
        assert batch["pixel_values"].shape == [6, 3, 32, 32]
        assert batch["input_ids"].shape[0] == 6
        assert {s: x.shape for s, x in batch["ids"].items()} == {"image": [3], "text": [3]}
        tensors = {**batch, **batch["ids"]}
        assert all(isinstance(tensors[k], paddle.Tensor) for k in tensors.keys() - {"index", "ids"})
        seen.append((batch["index"].tolist(), batch["valid"].numpy().tolist()))
    assert seen == [([0, 1, 2], [True, True, False]), ([3, 4, 5], [True] * 3)] * 2
    assert dataset.ledger.count == 1
    (line,) = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line)["source"].endswith("train.tsv:3")


def test_an_image_that_keeps_the_decoder_busy_is_a_bad_record(vocab, tmp_path):
    data = cv2.imencode(".jpg", np.zeros((40, 50, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    data = data[1].tobytes()
    scan = data[data.rindex(b"\xff\xda") : -2]
    bomb = base64.b64encode(data[:-2] + 2000 * scan + data[-2:]).decode()
    path = tmp_path / "train.tsv"
    path.write_text(f"a red dot\timage\t{bomb}\n")
    dataset = training_views(path, vocab, tmp_path)
    assert not dataset[0, 0, 0]["valid"]
    assert "a JPEG of more than 100 scans" in (tmp_path / "bad.jsonl").read_text()


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_batches(tsv, vocab, tmp_path, workers):
    dataset = training_views(tsv, vocab, tmp_path)
    batches = order(batch_size=5, micro_batch_size=2)
    alone, helped = (arrays(TrainingLoader(dataset, batches, n)) for n in (0, workers))
    assert_same(helped, alone)


def test_micro_batches_are_the_batch(tsv, vocab, tmp_path):
    dataset = training_views(tsv, vocab, tmp_path)
    whole = arrays(TrainingLoader(dataset, order(batch_size=5), 0))
    parts = arrays(TrainingLoader(dataset, order(batch_size=5, micro_batch_size=2), 2))
    for (one,), micro_batches in zip(whole, parts):
        assert [len(m["index"]) for m in micro_batches] == [2, 2, 1]  # none is left out
        for name in ("index", "image", "text", "valid"):
            assert np.array_equal(np.concatenate([m[name] for m in micro_batches]), one[name])
        for name, shape in (("pixel_values", (3, 32, 32)), ("input_ids", (-1,))):
            views = [m[name].reshape(2, len(m["index"]), *shape) for m in micro_batches]
            width = one[name].shape[-1]  # each micro-batch is cut to its own longest text
            padding = [(0, 0)] * (views[0].ndim - 1)
            views = [np.pad(v, [*padding, (0, width - v.shape[-1])]) for v in views]
            assert np.array_equal(np.concatenate(views, axis=1).reshape(one[name].shape), one[name])
            assert max(v.shape[-1] for v in views) == width


def test_ranks_read_the_global_batches_of_one_process(tsv, vocab, tmp_path):
    dataset = training_views(tsv, vocab, tmp_path, "Views.draw.per=sample")
    one = arrays(TrainingLoader(dataset, order(batch_size=4), 0))
    ranks = [
        arrays(TrainingLoader(dataset, order(batch_size=2, rank=r, world=2), 0)) for r in (0, 1)
    ]
    for (whole,), (first,), (second,) in zip(one, *ranks):
        for name in ("index", "image", "text", "valid"):
            assert np.array_equal(np.concatenate([first[name], second[name]]), whole[name])
        pixels = [m["pixel_values"].reshape(2, 2, 3, 32, 32) for m in (first, second)]
        pixels = np.concatenate(pixels, axis=1).reshape(whole["pixel_values"].shape)
        assert np.array_equal(pixels, whole["pixel_values"])


def test_a_record_twice_in_a_batch_is_augmented_twice(tsv, vocab, tmp_path):
    dataset = training_views(tsv, vocab, tmp_path)
    one, other = (dataset[0, place, 1]["image1"] for place in (0, 1))
    assert not np.array_equal(one, other)


def test_resume_goes_on_where_it_was(tsv, vocab, tmp_path):
    dataset = training_views(tsv, vocab, tmp_path)
    whole, rest = (
        arrays(TrainingLoader(dataset, order(batch_size=5, first_batch=first), 2))
        for first in (0, 4)
    )
    assert_same(rest, whole[4:])


def children():
    return {process.pid for process in multiprocessing.active_children()}


@pytest.mark.parametrize("seed", range(2))
def test_killed_workers_lose_and_repeat_nothing(tsv, vocab, tmp_path, seed, logged):
    dataset = training_views(tsv, vocab, tmp_path)
    batches = order(batch_size=5, micro_batch_size=2, batches=60)
    expected = arrays(TrainingLoader(dataset, batches, 0))
    random = np.random.default_rng(seed)
    over = threading.Event()
    killed = []

    def kill():
        while len(killed) < 8 and not over.wait(random.uniform(0.01, 0.2)):
            if pids := sorted(children()):
                with contextlib.suppress(ProcessLookupError):  # it has just been replaced
                    os.kill(random.choice(pids), signal.SIGKILL)
                    killed.append(1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with logged.at_level(logging.WARNING, "ernie_vil2"):
            batches_seen = arrays(TrainingLoader(dataset, batches, 2, max_restarts=100))
    finally:
        over.set()
        killer.join()
    assert_same(batches_seen, expected)
    assert len(killed) > 1 and "died of signal 9 (Killed); restarted" in logged.text
    assert not children()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_through_after_the_batches_before_it(tsv, vocab, tmp_path, workers):
    class Broken(Reader):
        """A reader with a bug in its fifth record."""

        def __init__(self, reader):
            self.reader = reader

        def __len__(self):
            return len(self.reader)

        def _get(self, index):
            if index == 4:
                raise UserError("train.tsv has gone: put it back")
            return self.reader[index]

    dataset = training_views(tsv, vocab, tmp_path)
    dataset.reader = Broken(dataset.reader)
    seen = []
    with pytest.raises(UserError, match=r"^train.tsv has gone: put it back$") as caught:
        for batch in TrainingLoader(dataset, order(batch_size=2, shuffle=False), workers):
            seen.append(batch[0]["index"].tolist())
    assert seen == [[0, 1], [2, 3]]
    if workers:
        assert "in __getitem__" in str(caught.value.__cause__)  # where it was raised
    del caught
    assert not children()


def test_leaving_early_ends_threads_and_workers(tsv, vocab, tmp_path):
    dataset = training_views(tsv, vocab, tmp_path)
    threads = threading.active_count()
    for _ in TrainingLoader(dataset, order(batches=1000), 2):
        assert len(children()) == 2
        break
    assert not children()
    assert threading.active_count() == threads


def sample(vocab, tsv, *overrides, row=0, draw=False, seed=0):
    record = build_reader("tsv", path=str(tsv))[row]
    maker = view_maker(vocab, *overrides)
    return maker, record, maker(record, np.random.default_rng(seed), draw)


def test_two_augmentations_and_one_text(tsv, vocab):
    _, record, views = sample(vocab, tsv)
    assert not np.array_equal(views["image1"], views["image2"])
    assert np.array_equal(views["text1"], views["text2"])
    assert views["ids"] == {"image": key(record.id), "text": key("a red dot")}


def test_batch_draw_decides_caption_or_tags(tsv, vocab):
    maker, record, views = sample(vocab, tsv, draw=True)
    text = maker.tokenizer.decode(views["text1"])
    assert text.startswith("[CLS] the picture contains")
    assert all(tag in text for tag in record.tags)
    assert views["ids"]["text"] == key("car\nred\nsky")  # whatever their order in the sentence


def test_record_without_tags_uses_its_caption(tsv, vocab):
    maker, _, views = sample(vocab, tsv, row=4, draw=True)
    assert maker.tokenizer.decode(views["text1"]) == "[CLS] a red dot [SEP]"


def test_draw_per_sample_follows_its_probability(tsv, vocab):
    maker = view_maker(vocab, "Views.draw.per=sample", "Views.draw.tags_prob=0.3")
    record = build_reader("tsv", path=str(tsv))[0]
    drawn = [
        maker(record, np.random.default_rng(seed), batch_draw=False)["ids"]["text"]
        != key("a red dot")
        for seed in range(400)
    ]
    assert 0.22 < np.mean(drawn) < 0.38


def test_caption_and_tags_as_views_of_their_own(tsv, vocab):
    six = "Views.text=[caption1, caption2, tags1, tags2]"
    pairs = "Loss.pairs=[{views: [caption1, tags1]}, {views: [image1, image2]}]"
    maker, _, views = sample(vocab, tsv, six, pairs)
    assert np.array_equal(views["tags1"], views["tags2"])
    assert not np.array_equal(views["caption1"], views["tags1"])
    assert list(views["ids"]) == ["image", "caption", "tags"]
    batch = maker.collate([views, {**maker.placeholder(), "valid": False}])
    assert batch["pixel_values"].shape == (4, 3, 32, 32)
    assert batch["input_ids"].shape[0] == 8
    assert np.array_equal(batch["pixel_values"][2], views["image2"])  # view after view
    assert batch["valid"].tolist() == [True, False]


class Told(TsvReader):
    """Writes down what it is told of ahead, and what it is asked for."""

    def prefetch(self, positions):
        self.note("told", *positions)

    def _get(self, position):
        self.note("asked", position)
        return super()._get(position)

    def note(self, *what):
        with open(self.log, "a") as file:
            file.write(" ".join(map(str, what)) + "\n")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_is_told_ahead_what_it_will_be_asked_for(
    tsv, vocab, tmp_path, workers, monkeypatch
):
    monkeypatch.setattr("ernie_vil2.data.loader._AHEAD", 2)
    reader = Told(str(tsv))
    reader.log = tmp_path / "log"
    views = TrainingViews(reader, view_maker(vocab), Ledger(tmp_path / "bad.jsonl"), seed=0)
    batches = order(batch_size=2, batches=9)
    for _ in TrainingLoader(views, batches, workers):
        pass
    lines = [line.split() for line in reader.log.read_text().splitlines()]
    stream = [str(index) for micro_batch in batches for _, _, index in micro_batch]
    told = [numbers for what, *numbers in lines if what == "told"]
    # each once, but for what is read at once
    assert sorted(number for numbers in told for number in numbers) == sorted(stream[2:])
    if workers == 0:
        assert told == [stream[2:6], *(stream[n : n + 2] for n in range(6, 18, 2))]
        assert [what for what, *_ in lines][:7] == [
            "told",
            *["asked"] * 2,
            "told",
            *["asked"] * 2,
            "told",
        ]
