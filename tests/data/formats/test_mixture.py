"""Several sources as one set: their records, their order, and what is refused."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from tests.support import packed
from tests.support.rows import bad, mixture, png, write
from tests.support.tars import write_tar


def test_records_of_all_sources(sources):
    reader = mixture(sources)
    alone = {name: build_reader(**options) for name, options in sources.items()}
    assert len(reader) == 5 and reader.ends.tolist() == [3, 5]
    assert [reader[i].id for i in (0, 2, 3, 4)] == ["web/id1", "web/id3", "zoo/id1", "zoo/other"]
    assert [reader[i].data_set for i in (0, 2, 3, 4)] == ["web", "web", "zoo", "zoo"]
    assert reader[0].image == alone["web"][0].image and reader[3].source == alone["zoo"][0].source
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


def test_texts_by_key_of_shards_and_columns(tmp_path):
    row = {"caption": "one", "alt": "two", "long": ["three", ""], "status": 1, "tags": ["x"]}
    shard = write_tar(tmp_path / "a.tar", ("a.png", png(1)), ("a.json", row))
    table = {"image": [png(1)] * 2, "alt": ["two", None], "long": [["three", "four"], ["five"]]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    columns = {"name": "parquet", "path": str(tmp_path / "a.parquet"), "caption": ["alt", "long"]}
    shards, one, two = mixture({"a": {"name": "shards", "path": shard}, "b": columns})
    assert shards.texts == {"alt": ("two",), "long": ("three",)}
    assert shards.texts_of("caption") == ("one",)
    assert one.texts == {"alt": ("two",), "long": ("three", "four")}
    assert (two.texts, two.texts_of("caption")) == ({"long": ("five",)}, ("five",))


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

    assert shares(weights={"web": 3, "zoo": 1}) == [0.75, 5]
    assert shares(weights={"web": 3, "zoo": 1}, on_end="stop") == [0.75, 4]
    assert shares() == [0.6, 5]  # as if they were one set
    assert shares(temperature=1.0) == [0.6, 5]
    assert shares(temperature=1e9) == [0.5, 5]
    assert shares(on_end="stop") == [0.6, 5]
    backwards = dict(reversed(sources.items()))  # they may stand in any order
    orders = [mixture(each).order(0, True)(np.arange(100)) for each in (sources, backwards)]
    assert np.array_equal(*orders)


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


def test_row_groups_beside_shards_are_read_near_one_another(tmp_path):
    images = [png(i) for i in range(9)]
    groups = {"name": "parquet", **packed.parquet(tmp_path, images)}  # three of three rows
    shards = {"name": "shards", **packed.shards(tmp_path, images)}
    reader = build_reader("mixture", sources={"a": groups, "b": shards})
    numbers = reader.order(3, {"mode": "shards", "window": 1})(np.arange(18))
    assert sorted(numbers) == list(range(18))
    assert (np.diff(numbers[numbers < 9] // 3) != 0).sum() == 2  # one after the other


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, expected",
    [
        ({"web": {"weigth": 1}}, 'sources.web: data set format tsv has no option "weigth"'),
        ({"web": {"weight": 0}, "zoo": {"weight": 1}}, "sources.web.weight is 0; expected"),
        ({"web": {"weight": -1}, "zoo": {"weight": 1}}, "sources.web.weight is -1; expected"),
        ({"web": {"weight": True}}, "sources.web.weight is true; expected a number above 0"),
        ({"web": {"weight": 2}}, "sources.zoo has no weight and others have: give each one"),
        ({"web": {"views": {"tags_prob": 2}}}, "sources.web.views.tags_prob is 2; expected"),
        ({"web": {"views": {"tag_prob": 0}}}, "unknown key sources.web.views.tag_prob; did you"),
        ({"web": {"captions": {}}}, "sources.web.captions is {}; expected a mapping of captions'"),
        ({"web": {"captions": {"alt": 0}}}, "sources.web.captions is {'alt': 0}; expected"),
        ({"web": {"captions": "alt"}}, "sources.web.captions is 'alt'; expected a mapping"),
        ({"web": {"texts": "alt"}}, "texts is 'alt': give a list of keys"),
        ({"web": {"name": "mixture"}}, "sources.web is a mixture itself"),
        ({"web": {"name": "tvs"}}, 'sources.web: no data set format "tvs"; did you mean "tsv"?'),
        ({"web": {"path": "no.tsv"}}, "sources.web: data file no.tsv does not exist"),
        ({"zoo": {"root": "nowhere"}}, "sources.zoo: image folder nowhere does not exist"),
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
