"""The texts that a mixture's sources draw, each in its own way."""

import numpy as np
import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.keys import key
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.loader import TrainingViews
from ernie_vil2.data.records import Record
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.train_transform import TrainTransform
from ernie_vil2.data.views import ViewMaker
from tests.support.rows import mixture, png

WORDS = ("one", "two", "three", "four", "x", "y", "the", "picture", "contains", ",", "a")


@pytest.fixture
def views(tmp_path):
    """A function of a reader and overrides: the reader's records as views, without images."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *WORDS]))

    def make(reader, *overrides):
        config = load_config("configs/base.yaml", overrides)
        maker = ViewMaker(
            **config.Views,
            transform=TrainTransform(**config.Transform),
            tokenizer=Tokenizer(vocab, max_len=16),
            own=getattr(reader, "views", None),
        )
        maker.image_views = []  # which draw from the same generator, before the texts
        return TrainingViews(reader, maker, Ledger(tmp_path / "bad.jsonl"), seed=3)

    return make


def said(dataset, index, batches=6, places=2):
    """What is drawn for a record in some batches and places; tags in one word."""
    texts = [dataset[b, p, index]["text1"] for b in range(batches) for p in range(places)]
    texts = [dataset.views.tokenizer.decode(text) for text in texts]
    return [text[6:-6].replace("the picture contains", "").replace(" ", "") for text in texts]


@pytest.mark.parametrize(
    "per, expected",
    [
        ("sample", "two one three y,x two two two two y,x three one one"),
        ("batch", "x,y y,x x,y x,y y,x y,x y,x x,y three one x,y y,x"),
    ],
)
def test_draws_of_one_set_are_those_of_before_there_were_mixtures(views, per, expected):
    record = Record("i", png(1), ("one", "two", "three"), ("x", "y"), "s:1")
    assert said(views([record], f"Views.draw.per={per}"), 0) == expected.split()


def test_a_mixture_that_asks_for_nothing_draws_as_its_source_alone(sources, views):
    web = {"web": sources["web"]}
    alone, mixed = views(build_reader(**sources["web"])), views(mixture(web))
    assert said(alone, 0) == said(mixed, 0)
    assert alone[1, 0, 0]["ids"]["text"] == mixed[1, 0, 0]["ids"]["text"]
    assert mixed[1, 0, 0]["ids"]["image"] == key("web/id1")


def test_each_source_has_its_own_share_of_tags(sources, views):
    both = {"web": sources["web"], "zoo": sources["web"]}
    without, always = ({"views": {"tags_prob": share}} for share in (0.0, 1.0))
    reader = mixture(both, web=without, zoo=always)
    for per in ("batch", "sample"):
        dataset = views(reader, f"Views.draw.per={per}")
        assert set(said(dataset, 0)) == {"one"}
        assert set(said(dataset, 3)) == {"x,y", "y,x"}
    reader = mixture(both, zoo={"views": {"per": "sample"}})
    of_batches = np.reshape(said(views(reader), 0, 40), [40, 2]) == "one"
    of_samples = np.reshape(said(views(reader), 3, 40), [40, 2]) == "one"
    assert (of_batches[:, 0] == of_batches[:, 1]).all()
    assert (of_samples[:, 0] != of_samples[:, 1]).any()


def test_captions_are_drawn_by_key_and_weight(sources, views):
    captions = {"captions": {"alt": 1, "long": 3}, "views": {"tags_prob": 0.0}}
    short = {"captions": {"caption": 1, "short": 1}, "views": {"tags_prob": 0.0}}
    dataset = views(mixture(sources, web=captions, zoo=short))
    drawn = said(dataset, 0, 200)
    assert set(drawn) == {"two", "three"} and 0.68 < np.mean([x == "two" for x in drawn]) < 0.82
    assert set(said(dataset, 2)) == {"two"}  # which has no alt
    drawn = said(dataset, 3, 200)
    assert set(drawn) == {"one", "three", "four"}  # a key is drawn, then one of its texts
    assert 0.43 < np.mean([x == "one" for x in drawn]) < 0.57
    assert drawn == said(dataset, 3, 200)


def test_a_record_without_any_of_the_captions_is_bad(sources, views, tmp_path):
    dataset = views(mixture(sources, zoo={"captions": {"atl": 1}}), "Views.draw.tags_prob=0.0")
    assert not dataset[0, 0, 3]["valid"] and "valid" not in dataset[0, 0, 0]
    line = (tmp_path / "bad.jsonl").read_text()
    assert "a.jsonl:1" in line and "none of the captions atl, but caption, alt, short" in line
