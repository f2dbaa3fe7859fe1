"""A new run in a used folder neither loses nor mixes in what was there."""

import shutil

from ernie_vil2.training import earlier_run
from tests.support.shapes import write_run
from tests.support.training_runs import metrics, train


def test_a_new_run_begins_with_files_of_its_own(tmp_path):
    config = write_run(tmp_path)
    out = train(config, "Global.max_steps=3", "Global.log_interval=1")
    before = (out / "metrics.jsonl").read_bytes()
    (out / "bad_records.jsonl").write_text('{"source": "a:1", "reason": "of before"}\n')
    curves = [path.name for path in (out / "vdl").iterdir()]
    train(config, "Global.max_steps=2")
    assert list(metrics(out)) == [1, 2]
    assert set(metrics(out, "train/bad_records").values()) == {0}
    assert (out / "metrics.jsonl.1").read_bytes() == before
    assert [path.name for path in (out / "vdl.1").iterdir()] == curves
    assert len(list((out / "vdl").iterdir())) == 1
    assert "of before" in (out / "bad_records.jsonl.1").read_text()
    assert (out / "checkpoints.1" / "step_00000003").is_dir()
    train(config, "Global.max_steps=3", resume="auto")  # which appends
    assert list(metrics(out)) == [1, 2, 3]


def test_all_that_goes_aside_has_one_number(tmp_path):
    (tmp_path / "checkpoints.1").mkdir()
    (tmp_path / "vdl.2").mkdir()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "faults.jsonl").touch()  # empty: nothing to keep
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    names = [path.name for path in earlier_run.put_aside(tmp_path)]
    assert names == ["checkpoints.3", "metrics.jsonl.3"]
    assert earlier_run.put_aside(tmp_path) == []


def test_a_run_copied_with_its_links_followed_goes_on(tmp_path):
    config = write_run(tmp_path)
    out = train(config, "Global.max_steps=2")
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)  # symlinks=False
    for steps, resume in ((3, "auto"), (4, copy / "checkpoints" / "latest")):
        train(config, f"Global.output_dir={copy}", f"Global.max_steps={steps}", resume=resume)
    assert (copy / "checkpoints" / "latest").readlink().name == "step_00000004"


def test_a_folder_that_was_copied_so_may_be_named(tmp_path):
    config = write_run(tmp_path)
    out = train(config, "Global.max_steps=2")
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    latest = copy / "checkpoints" / "latest"
    train(config, f"Global.output_dir={copy}", "Global.max_steps=3", resume=latest)
    assert latest.readlink().name == "step_00000003"
