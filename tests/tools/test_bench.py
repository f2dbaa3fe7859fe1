"""The tables of tools/bench.py, at tiny sizes: exact ways are exact in them, wrong ones wrong."""

import importlib.util
import json
import subprocess
import sys

import paddle
import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

EXACT, WRONG = 1e-5, 1e-3
COMMANDS = ["loss", "scale", "inference", "data", "step", "records", "index", "search"]


def bench(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """command -> (what it printed, what it wrote), both run at once."""
    folder = tmp_path_factory.mktemp("bench")
    runs = {name: bench(name, "--quick", "--json", folder / f"{name}.json") for name in COMMANDS}
    found = {}
    for name, run in runs.items():
        printed, complaints = run.communicate(timeout=300)
        assert run.returncode == 0, complaints
        found[name] = printed, json.loads((folder / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_markdown_says_what_was_run_where(results, command):
    printed, written = results[command]
    first = printed.splitlines()[0]
    for name in ("python", "paddlepaddle", "processor", "cores", "load"):
        assert f"{name} {written['environment'][name]}" in first
    assert printed.count("\n### ") == len(written["tables"])
    for rows in written["tables"].values():
        assert rows


def test_both_paths_agree_with_float64(results):
    tables = results["loss"][1]["tables"]
    seen = set()
    for rows in (rows for key, rows in tables.items() if key.startswith("errors_")):
        for row in rows:
            seen.add((row["targets"], row["path"].split()[0]))
            for key in {"loss", "rows", "columns", "scale", "bias"} & row.keys():
                assert row[key] < EXACT, (row, key)
            assert ("bias" in row) == row["targets"].startswith("sigmoid")
    kinds = ("softmax, one positive", "softmax, several", "sigmoid, several")
    assert seen == {(kind, path) for kind in kinds for path in ("plain", "chunked", "ring")}


def test_formulations_are_exact_or_shown_wrong(results):
    for row in results["loss"][1]["tables"]["formulations"]:
        ours = row["whose"] == "ours"
        for key in ("loss", "gradient", "scale", "direction"):
            if ours:
                assert row[key] < EXACT, (row, key)
        if not ours:
            assert row["gradient"] > WRONG
    rows = {row["whose"].split()[0]: row for row in results["loss"][1]["tables"]["formulations"]}
    ranks = results["loss"][1]["settings"]["ranks"]
    # of all rows x all columns only the size is wrong, and not the scale's gradient
    assert rows["PaddleNLP;"]["size"] == pytest.approx(1 / ranks, rel=1e-5)
    assert rows["PaddleNLP;"]["direction"] < EXACT
    assert rows["PaddleNLP;"]["scale"] < EXACT
    for whose in ("official", "open_clip", "PaddleMIX"):
        assert rows[whose]["direction"] > WRONG
    assert rows["official"]["loss"] > WRONG


def test_memory_and_time_have_a_cell_for_each_size(results):
    _, written = results["loss"]
    for key in ("memory", "time"):
        for row in written["tables"][key]:
            for size in written["settings"]["sizes"]:
                run, number = row[str(size)]
                assert run and number > 0
    assert all(row["memory"] < 1 for row in written["tables"]["ratios"])


def test_accumulation_equals_the_whole_batch(results):
    _, written = results["scale"]
    rows = written["tables"]["accumulation_errors"]
    assert len(rows) == 6
    for row in rows:
        for batch in written["settings"]["batches"]:
            assert row[str(batch)] < EXACT, row
    for key in ("accumulation_memory", "accumulation_time"):
        assert all(row[str(b)] > 0 for row in written["tables"][key] for b in (4, 6))


def test_processes_agree_with_one_and_with_float64(results):
    rows = results["scale"][1]["tables"]["processes"]
    assert {(row["name"].split(":")[0], row["processes"]) for row in rows} == {
        ("plain", 1),
        ("plain", 2),
        ("micro-batches", 1),
        ("micro-batches", 2),
        ("all", 2),
    }
    for row in rows:
        for key in ("loss", "gradients", "loss64", "embeds64"):
            assert row[key] < EXACT, (row, key)
        assert row["seconds"] > 0
    # a process keeps half of what sharding shares out
    alone, sharded = rows[0], rows[-1]
    for kind in ("parameters", "gradients", "optimizer"):
        assert sharded[f"{kind}_bytes"] < 0.6 * alone[f"{kind}_bytes"]


def test_every_implementation_is_timed_at_every_batch(results):
    printed, written = results["inference"]
    tables, batches = written["tables"], written["settings"]["batches"]
    made = {row["name"] for row in tables["start"]}
    expected = {f"ours, {precision}" for precision in made} | {"PaddleNLP, dygraph"}
    if importlib.util.find_spec("onnxruntime") and paddle.__version__ < "3":
        expected.add("ONNX Runtime, fp32")
    else:
        assert "ONNX Runtime, fp32: " in printed  # why not
    assert "fp32" in made
    for tower in ("image", "text"):
        rates, latency = tables[f"{tower}_rates"], tables[f"{tower}_latency"]
        names = [row["name"] for row in rates]
        assert {name.partition(", max_length")[0].partition(", longest")[0] for name in names} == (
            expected
        )
        assert [row["name"] for row in latency] == names
        for rate, times in zip(rates, latency):
            for batch in map(str, batches):
                p50, p99 = times[batch]
                assert 0 < p50 <= p99
                assert rate[batch] >= 0.99 * int(batch) / p50  # the best is no slower than half
        assert rates[0]["ratio"] == 1  # PaddleNLP's to itself
    for row in tables["start"]:
        assert 0 < row["seconds"] < 60
    served = {(row["kind"], row["batch"]) for row in tables.get("server", [])}
    if importlib.util.find_spec("fastapi"):
        assert served == {("images", 4), ("texts", 4)}
        assert all(row["share"] > 0 for row in tables["server"])
    else:
        assert not served and "no server to measure" in printed


def test_steps_are_timed_and_compute_the_same(results):
    printed, written = results["step"]
    rows = {row["name"]: row for row in written["tables"]["step_pair"]}
    expected = {"ours, bare", "ours, as the trainer", "PaddleNLP"}
    if "PyTorch: " not in printed:  # it has torch only where --torch-python names one
        expected.add("PyTorch")
        assert 0 < rows["PyTorch"]["gradients"] < 1e-4  # its own arithmetic, and the same gradients
    assert rows.keys() == expected
    assert 0 < rows["PaddleNLP"]["loss"] < 1e-4
    for row in rows.values():
        assert row["wall"] > 0 and row["cpu"] > 0


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["loss", "--sizes", "4096", "512"], "--sizes [4096, 512]: expected ascending"),
        (["loss", "--small-global", "100"], "--small-global 100 records cannot be shared out"),
        (["loss", "--json", "nowhere/x.json"], "--json nowhere/x.json: there is no such folder"),
        (["scale", "--processes", "2", "4"], "--processes [2, 4]: expected 1"),
        (["inference", "--seconds", "0"], "--seconds 0.0: expected a number above 0"),
        (["step", "--heads", "5"], "--width 768 is no multiple of --heads 5"),
        (["step", "--torch-python", "no-python"], "--torch-python no-python: there is no such"),
        (["inference", "-w", "nowhere"], "--weights nowhere: there is no such file or folder"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    run = bench(*arguments)
    printed, complaints = run.communicate(timeout=60)
    assert run.returncode == 2
    assert printed == ""
    assert complaints.startswith(f"error: {message}")
    assert len(complaints.splitlines()) == 1


def test_pipelines_take_turns_on_the_same_pictures(results):
    tables = results["data"][1]["tables"]
    names = [row["name"] for row in tables["peers"]]
    assert len(names) == 7 and names[-1].startswith("official")
    assert all(row["median"] > 0 and row["mean"] > 0 for row in tables["peers"])
    assert tables["peers"][-1]["ratio"] == 1
    assert sum(row["share"] for row in tables["stages"]) == pytest.approx(1)
    assert len(tables["evaluation"]) == 2


def test_pixels_take_a_quarter_as_uint8(results):
    before, now = results["data"][1]["tables"]["pixels"]
    assert before["bytes"] == 4 * now["bytes"] == 2 * 3 * 32 * 32 * 4


def test_a_start_and_a_workers_memory_do_not_grow_with_the_set(results):
    """To read the whole index of the larger set takes 0.2 s."""
    small, large = results["records"][1]["tables"]["records"]
    assert (small["records"], large["records"]) == (10**5, 10**7)
    assert large["index"] > 99 * small["index"]
    for row in (small, large):
        assert row["open"] < 0.1 and 0 < row["anonymous"] < row["resident"] < 300 << 20
    assert abs(large["anonymous"] - small["anonymous"]) < 10 << 20
    assert abs(large["resident"] - small["resident"]) < 10 << 20


def test_an_index_takes_turns_with_the_bare_model(results):
    rows = results["index"][1]["tables"]["index"]
    assert [row["name"].split(",")[0] for row in rows] == [
        "the bare image tower",
        "an index",
        "reading and decoding alone",
    ]
    assert rows[0]["share"] == 1
    for row in rows:
        assert 0 < row["least"] <= row["rate"] <= row["most"] and row["cpu"] > 0


def test_a_store_finds_what_numpy_does(results):
    tables = results["search"][1]["tables"]
    assert [row["store"] for row in tables["build"]] == ["LanceDB"]
    assert tables["build"][0]["disk"] > 3000 * 32 * 4
    passing = {row["where"]: row["passing"] for row in tables["queries"]}
    assert passing == {"none": 3000, "folder": 150, "tag": 300, "after": 1500}
    assert len(tables["queries"]) == 2 * len(passing)
    for row in tables["queries"]:
        assert row["recall"] == 1 and 0 < row["p50"] <= row["p99"]
