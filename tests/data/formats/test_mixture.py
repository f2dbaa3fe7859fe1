"""Several sources as one set: their records, their own ways to draw texts, and what is refused."""

import pickle

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
from ernie_vil2.errors import UserError
from tests.support import packed
from tests.support.rows import b64, bad, png, write


@pytest.fixture
def sources(tmp_path):
    """`web`, three rows of which the second is bad, and `own`, two images of three texts each."""
    row = b"one\tid%d\t%s\tx|y\t%s\ttwo"
    web = [row % (1, b64(png(1)), b"three"), b"bad", row % (3, b64(png(3)), b" ")]
    (tmp_path / "1.png").write_bytes(png(1))
    own = [
        {"image": "1.png", "caption": "one", "id": "id1", "alt": "two", "short": ["three", "four"]},
        {"image": "1.png", "captions": ["one", "two"], "id": "other", "alt": 5, "size": [3, 4]},
    ]
    return {
        "web": {"name": "tsv", "path": write(tmp_path / "a.tsv", *web), "texts": ["alt", "long"]},
        "own": {
            "name": "folder",
            "root": str(tmp_path),
            "jsonl": write(tmp_path / "a.jsonl", *own),
        },
    }


def mixture(sources, **more):
    """Its reader; `more`: source -> further options."""
    sources = {name: {**options, **more.get(name, {})} for name, options in sources.items()}
    return build_reader("mixture", sources=sources)


def test_records_of_all_sources(sources):
    reader = mixture(sources)
    alone = {name: build_reader(**options) for name, options in sources.items()}
    assert len(reader) == 5 and reader.ends.tolist() == [3, 5]
    assert [reader[i].id for i in (0, 2, 3, 4)] == ["web/id1", "web/id3", "own/id1", "own/other"]
    assert [reader[i].data_set for i in (0, 2, 3, 4)] == ["web", "web", "own", "own"]
    assert reader[0].image == alone["web"][0].image and reader[3].source == alone["own"][0].source
    assert reader[0].tags == ("x", "y") and reader[-1] == reader[4]
    assert bad(reader, 1).source == bad(alone["web"], 1).source
    assert pickle.loads(pickle.dumps(reader))[3] == reader[3]
    with pytest.raises(IndexError):
        reader[5]


def test_texts_by_key(sources):
    reader = mixture(sources)
    assert reader[0].texts == {"alt": ("three",), "long": ("two",)}
    assert reader[2].texts == {"long": ("two",)}  # a blank is none
    assert reader[3].texts == {"alt": ("two",), "short": ("three", "four")}
    assert reader[4].texts == {}  # numbers are none
    assert reader[4].texts_of("caption") == ("one", "two") and reader[4].texts_of("alt") == ()
    named = Record("", b"", ("one",), (), "", texts={"alt": "two", "caption": "three"})
    assert named.texts_of("alt") == ("two",) and named.texts_of("caption") == ("three",)


def test_an_evaluation_reads_each_source_as_it_does_alone(tmp_path):
    chinese_clip = {
        "name": "chinese_clip",
        "imgs": write(tmp_path / "i.tsv", b"1\tAAAA", b"2\tAAAA"),
        "texts": write(
            tmp_path / "t.jsonl",
            {"text": "x", "image_ids": [1], "text_id": 7},
            {"text": "alone", "image_ids": [], "text_id": 8},
        ),
    }
    reader = mixture({"a": chinese_clip, "b": chinese_clip})
    assert len(reader) == 4  # an image and a row that names none, of each
    records = list(reader.evaluation())
    assert [record.id for record in records] == ["a/1", "a/2", "", "b/1", "b/2", ""]
    rows = [row for record in records for row, _ in record.text_ids]
    assert len(set(rows)) == len(rows) == 4  # no text of one source is that of another
    assert [text_id for record in records for _, text_id in record.text_ids] == [7, 8, 7, 8]


def test_the_order_is_that_of_weights_sizes_or_temperature(sources):
    def shares(**options):
        weights = options.pop("weights", {})
        each = {n: {**s, "weight": weights[n]} if weights else s for n, s in sources.items()}
        order = build_reader("mixture", sources=each, **options).order(0, True)
        return [(order(np.arange(1000)) < 3).mean(), order.size]

    assert shares(weights={"web": 3, "own": 1}) == [0.75, 5]
    assert shares(weights={"web": 3, "own": 1}, on_end="stop") == [0.75, 4]
    assert shares() == [0.6, 5]  # as if they were one set
    assert shares(temperature=1.0) == [0.6, 5]
    assert shares(temperature=1e9) == [0.5, 5]
    assert shares(on_end="stop") == [0.6, 5]


# -- Texts -----------------------------------------------------------------------------------------

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


def test_shards_are_read_near_one_another_and_other_sources_as_they_can(tmp_path):
    tars = packed.shards(tmp_path, [png(i) for i in range(21)])  # three of seven records
    lines = packed.tsv(tmp_path, [png(i) for i in range(9)])
    near = {"mode": "shards", "window": 1}
    mixed = {"a": {"name": "tsv", **lines}, "b": {"name": "shards", **tars}}
    reader = build_reader("mixture", sources=mixed)
    numbers = reader.order(3, near)(np.arange(30))
    shard_of = (numbers[numbers >= 9] - 9) // 7
    assert sorted(numbers) == list(range(30))
    assert (np.diff(shard_of) != 0).sum() == 2  # one after the other
    with pytest.raises(UserError, match="no shards"):
        build_reader("mixture", sources={"a": mixed["a"]}).order(3, near)
    asked = {}
    for name, source in zip(reader.names, reader._readers):
        source.prefetch = lambda positions, name=name: asked.update({name: positions.tolist()})
    reader.prefetch(np.array([8, 29, 0, 9]))
    assert asked == {"a": [8, 0], "b": [20, 0]}


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
    both = {"web": sources["web"], "own": sources["web"]}
    without, always = ({"views": {"tags_prob": share}} for share in (0.0, 1.0))
    reader = mixture(both, web=without, own=always)
    for per in ("batch", "sample"):
        dataset = views(reader, f"Views.draw.per={per}")
        assert set(said(dataset, 0)) == {"one"}
        assert set(said(dataset, 3)) == {"x,y", "y,x"}
    reader = mixture(both, own={"views": {"per": "sample"}})
    of_batches = np.reshape(said(views(reader), 0, 40), [40, 2]) == "one"
    of_samples = np.reshape(said(views(reader), 3, 40), [40, 2]) == "one"
    assert (of_batches[:, 0] == of_batches[:, 1]).all()
    assert (of_samples[:, 0] != of_samples[:, 1]).any()


def test_captions_are_drawn_by_key_and_weight(sources, views):
    captions = {"captions": {"alt": 1, "long": 3}, "views": {"tags_prob": 0.0}}
    short = {"captions": {"caption": 1, "short": 1}, "views": {"tags_prob": 0.0}}
    dataset = views(mixture(sources, web=captions, own=short))
    drawn = said(dataset, 0, 200)
    assert set(drawn) == {"two", "three"} and 0.68 < np.mean([x == "two" for x in drawn]) < 0.82
    assert set(said(dataset, 2)) == {"two"}  # which has no alt
    drawn = said(dataset, 3, 200)
    assert set(drawn) == {"one", "three", "four"}  # a key is drawn, then one of its texts
    assert 0.43 < np.mean([x == "one" for x in drawn]) < 0.57
    assert drawn == said(dataset, 3, 200)


def test_a_record_without_any_of_the_captions_is_bad(sources, views, tmp_path):
    dataset = views(mixture(sources, own={"captions": {"atl": 1}}), "Views.draw.tags_prob=0.0")
    assert not dataset[0, 0, 3]["valid"] and "valid" not in dataset[0, 0, 0]
    line = (tmp_path / "bad.jsonl").read_text()
    assert "a.jsonl:1" in line and "none of the captions atl, but caption, alt, short" in line


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, expected",
    [
        ({"web": {"weigth": 1}}, 'sources.web: data set format tsv has no option "weigth"'),
        ({"web": {"weight": 0}, "own": {"weight": 1}}, "sources.web.weight is 0; expected"),
        ({"web": {"weight": -1}, "own": {"weight": 1}}, "sources.web.weight is -1; expected"),
        ({"web": {"weight": True}}, "sources.web.weight is true; expected a number above 0"),
        ({"web": {"weight": 2}}, "sources.own has no weight and others have: give each one"),
        ({"web": {"views": {"tags_prob": 2}}}, "sources.web.views.tags_prob is 2; expected"),
        ({"web": {"views": {"tag_prob": 0}}}, "unknown key sources.web.views.tag_prob; did you"),
        ({"web": {"captions": {}}}, "sources.web.captions is {}; expected a mapping of captions'"),
        ({"web": {"captions": {"alt": 0}}}, "sources.web.captions is {'alt': 0}; expected"),
        ({"web": {"captions": "alt"}}, "sources.web.captions is 'alt'; expected a mapping"),
        ({"web": {"texts": "alt"}}, "texts is 'alt': give a list of keys"),
        ({"web": {"name": "mixture"}}, "sources.web is a mixture itself"),
        ({"web": {"name": "tvs"}}, 'sources.web: no data set format "tvs"; did you mean "tsv"?'),
        ({"web": {"path": "no.tsv"}}, "sources.web: data file no.tsv does not exist"),
        ({"own": {"root": "nowhere"}}, "sources.own: image folder nowhere does not exist"),
    ],
)
def test_a_wrong_source_is_one_line(sources, more, expected):
    with pytest.raises(UserError) as caught:
        mixture(sources, **more)
    assert str(caught.value).startswith("data set format mixture: ")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_mixture_is_one_line(sources, tmp_path):
    empty = {"name": "tsv", "path": str(tmp_path / "empty.tsv")}
    (tmp_path / "empty.tsv").touch()
    weighted = {name: {**options, "weight": 1} for name, options in sources.items()}
    for options, expected in [
        ({}, "data set format mixture needs the option sources"),
        ({"sources": {}}, "sources is {}; expected a mapping of sources' names"),
        ({"sources": ["web"]}, "sources is ['web']; expected a mapping"),
        ({"sources": {"web": "a.tsv"}}, "sources.web is 'a.tsv'; expected a mapping"),
        ({"sources": {"a/b": {}}}, "a name of sources is 'a/b'; expected letters"),
        ({"sources": {"web": {}}}, "sources.web.name is missing; state the name of a format"),
        ({"sources": sources, "on_end": "halt"}, "on_end is 'halt'; expected one of repeat, stop"),
        ({"sources": sources, "temperature": 0}, "temperature is 0; expected a number above 0"),
        ({"sources": weighted, "temperature": 2.0}, "has temperature 2 and weights: state one"),
        (
            {"sources": {"web": empty}},
            "sources.web: ",
        ),
        ({"sources": {"web": empty}}, "holds no record: the data set is empty"),
        ({"sources": sources, "weights": [1]}, 'has no option "weights"'),
    ]:
        with pytest.raises(UserError) as caught:
            build_reader("mixture", **options)
        assert expected in str(caught.value) and "\n" not in str(caught.value), caught.value
