"""Runs over data of which a part is hostile: killed again and again, and ended by its budget."""

import json
import os
from collections import Counter

import numpy as np
import pytest

from ernie_vil2.checkpoints import layout
from tests.support.hostile import rows
from tests.support.hostile.sets import samples, tsv_line
from tests.support.hostile.tars import TarRecord, good_record, tar_records
from tests.support.killed_runs import Kill, Runs
from tests.support.pictures import noise
from tests.support.shapes import write_run
from tests.support.stores import s3_server
from tests.support.training_runs import train

# of each of two sources, which are read up after 10 steps
STEPS, BATCH, RECORDS, HOSTILE = 12, 20, 100, 5


def mixed(corpus: list, seed: int, hostile: int = HOSTILE) -> tuple[list, list[int]]:
    """RECORDS samples drawn from a corpus, and the places of the hostile ones among them."""
    rng = np.random.default_rng(seed)
    good = [sample for sample in corpus if sample.good]
    wrong = [sample for sample in corpus if not sample.good]
    found = [good[number] for number in rng.integers(0, len(good), RECORDS)]
    places = sorted(rng.choice(RECORDS, hostile, replace=False).tolist())
    for place, number in zip(places, rng.choice(len(wrong), hostile, replace=False)):
        found[place] = wrong[number]
    return found, places


def tsv_source(folder, hostile: int = HOSTILE) -> tuple[dict, list[str]]:
    """A TSV, partly hostile: the section `dataset`, and the sources of what is bad in it."""
    found, places = mixed(samples(rows.tsv(), tame=False), seed=7, hostile=hostile)
    path = folder / "hostile.tsv"
    path.write_bytes(b"\n".join(tsv_line(s, n) for n, s in enumerate(found)) + b"\n")
    return {"name": "tsv", "path": str(path)}, [f"{path}:{place + 1}" for place in places]


def shards_source(server) -> tuple[dict, list[str]]:
    """The same of two tar shards in a store."""
    corpus: list = [sample for sample in samples([], tame=False) if sample.picture]
    corpus += [record for record in tar_records(noise("PNG")) if not record.good]
    corpus = [record for record in corpus if getattr(record, "key", "") != "twin"]
    found, places = mixed(corpus, seed=8)
    parts, bad = [], []
    for number, sample in enumerate(found):
        key = f"k{number}"
        if isinstance(sample, TarRecord):
            key = sample.key
            parts.append(sample.data)
        else:
            parts.append(good_record(key, sample.picture, sample.caption))
        bad += [f"s3://data/{number % 2}.tar:{key}"] * (number in places)
    for shard in range(2):
        server.put(f"{shard}.tar", b"".join(parts[shard::2]) + bytes(1024))
    return {"name": "shards", "path": "s3://data/*.tar"}, bad


def mixture(folder, server) -> tuple[dict, list[str]]:
    """Both, in equal shares."""
    sources, bad = {}, []
    for name, (dataset, its_bad) in (
        ("crawl", shards_source(server)),
        ("own", tsv_source(folder)),
    ):
        sources[name] = {"weight": 1, **dataset}
        bad += its_bad
    return {"name": "mixture", "sources": sources}, bad


@pytest.fixture
def server(tmp_path):
    """A store on loopback."""
    with s3_server(tmp_path) as found:
        yield found


def environment(folder) -> dict[str, str]:
    """How runs find the store, and what they keep of it."""
    found = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {**found, "XDG_CACHE_HOME": str(folder / "home")}


def ledger(output) -> Counter:
    lines = (output / "bad_records.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["source"] for line in lines if line)


def tensors(output) -> dict:
    """Name -> bytes of the last checkpoint's files of tensors."""
    newest = layout.checkpoints(output / "checkpoints")[-1]
    assert layout.step_of(newest) == STEPS
    return {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}


@pytest.mark.slow
def test_killed_on_two_one_and_two_processes_it_ends_as_if_undisturbed(tmp_path, server):
    """The same weights to the last bit; and each hostile record is in the ledger, once."""
    dataset, bad = mixture(tmp_path, server)
    assert len(bad) == 2 * HOSTILE == 0.05 * 2 * RECORDS
    config = write_run(
        tmp_path,
        Global={"save_interval": 1, "epochs": 99, "max_steps": STEPS, "sample_views": 0},
        Distributed={"as_two": True},
        EMA={"decay": 0.9},
        LRScheduler={"learning_rate": 0.01, "warmup_steps": 2},
        DataLoader={
            "Train": {
                "dataset": dataset,
                "global_batch_size": BATCH,
                "micro_batch_size": 4,
                "num_workers": 2,
            },
            "Eval": None,
        },
    )
    attempts = Runs(tmp_path / "attempts", environment(tmp_path))
    argv = ["-c", config, "--resume", "auto"]
    whole, output = tmp_path / "whole", tmp_path / "output"
    reference = attempts(whole, argv, processes=2)
    assert reference.code == 0, reference.log
    # two calls a step are of "stepping", the optimizer's and the average's
    legs = [
        (2, Kill(rank=0, phase="stepping", number=4)),
        (2, Kill(rank=1, phase="stepping", number=3, group=False)),
        (1, Kill(phase="stepping", number=5)),
        (1, Kill(phase="publishing", number=2)),
        (2, Kill(rank=0, phase="writing", number=3, grace=0.2)),
    ]
    for processes, kill in legs:
        attempt = attempts(output, argv, processes, kill)
        assert attempt.code == -9 and attempt.phase == kill.phase, attempt.log
        for step, batches in attempt.records.items():
            assert batches == reference.records[step]
    last = attempts(output, argv, processes=2)
    assert last.code == 0, last.log
    assert len(last.records) >= 2  # there was something left to do
    assert tensors(output) == tensors(whole)
    assert ledger(output) == ledger(whole) == Counter(bad)


def test_too_much_of_it_ends_the_run_with_a_count_of_reasons(tmp_path, capsys):
    dataset, bad = tsv_source(tmp_path, hostile=40)
    config = write_run(tmp_path, DataLoader={"Train": {"dataset": dataset, "batch_size": BATCH}})
    out = train(config, "Global.max_steps=99", "Faults.bad_share=0.3", code=2)
    (message,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "40 of the last 100 records could not be read, and Faults.bad_share is 0.3 (" in message
    assert ledger(out) == Counter(bad)
    assert "damaged or truncated" in message and f"{dataset['path']}:" in message
    assert message.count(" x ") == 3 and len(message) < 2000
