"""One process's share of the data: what is read depends on the place in it alone."""

import contextlib
import itertools
from dataclasses import replace

import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.training.plan import Plan
from ernie_vil2.training.stream import Stream
from tests.support.shapes import write_run


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> Stream:
    folder = tmp_path_factory.mktemp("stream")
    config = load_config(write_run(folder))
    tokenizer = Tokenizer(**config.Tokenizer)
    return Stream.of(config, Plan(8, 4, 2), tokenizer, Ledger(folder / "bad_records.jsonl"))


def records(batches) -> list[list[int]]:
    """The numbers of each batch's records, in order."""
    return [[int(i) for micro in batch for i in micro["index"]] for batch in batches]


def test_processes_share_what_one_reads(stream):
    alone = records(stream.batches(3, 5))
    shares = [
        replace(stream, plan=Plan(4, 4, 2), rank=rank, world_size=2).batches(3, 5)
        for rank in (0, 1)
    ]
    assert alone == [first + second for first, second in zip(*map(records, shares))]
    assert len(set(alone[0])) == 8


def test_a_step_has_as_many_batches_as_the_plan_merges(stream):
    steps = list(stream.steps(first=4, count=2))
    assert [len(step) for step in steps] == [2, 2]
    assert records(itertools.chain(*steps)) == records(stream.batches(4, 8))
    assert [len(micro["valid"]) for micro in steps[0][0]] == [4, 4]
    assert stream.steps_per_epoch == 64 / 8 / 2


def test_a_stream_left_early_is_closed(stream):
    with contextlib.closing(replace(stream, workers=1).batches(0, 100)) as batches:
        assert len(next(batches)) == 2


def test_dropout_seeds_are_those_of_the_place_in_the_data(stream):
    seeds = stream.dropout_seeds(5)
    halves = [
        replace(stream, plan=Plan(4, 4, 2), rank=rank, world_size=2).dropout_seeds(5)
        for rank in (0, 1)
    ]
    assert halves == [[seed] for seed in seeds]
    assert len({*seeds, *stream.dropout_seeds(6)}) == 4


def test_a_record_is_named_for_people(stream):
    record = stream.dataset.reader[5]
    assert stream.name(5) == {"index": 5, "id": record.id, "source": record.source}
