"""A resume says what it does otherwise than before."""

import numpy as np
import pytest
import yaml

from ernie_vil2.config.load import load_config
from ernie_vil2.training.resume_changes import changes
from tests.support.shapes import write_run
from tests.support.training_runs import train, weights


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with nothing of a checkpoint but its configuration, and the run's own YAML."""
    folder = tmp_path / "step_00000001"
    folder.mkdir()
    config = write_run(tmp_path)
    load_config(config).dump(folder / "config.yaml")
    return folder, config


@pytest.mark.parametrize(
    "override,said",
    [
        ("Global.seed=7", "Global.seed was 42 and is 7: other order"),
        ("DataLoader.Train.dataset.path=x.tsv", "x.tsv': other data from here on"),
        ("DataLoader.Train.shuffle=false", "shuffle was true and is false: other data"),
        ("DataLoader.Train.shuffle.mode=shards", "shuffle was true and is {'mode': 'shards', "),
        ("DataLoader.Eval=null", "and is null: recalls"),
        ("Optimizer.name=Lamb", "Optimizer.name was 'AdamW' and is 'Lamb': its state"),
        ("EMA.decay=0.9", "EMA.decay was null and is 0.9: averages"),
        ("Optimizer.freeze=[image]", "Optimizer.freeze was [] and is ['image']: moments"),
        ("Global.max_steps=5", "Global.max_steps was 4 and is 5: the schedule"),
        ("LRScheduler.learning_rate=1", "learning_rate was 0.001 and is 1.0: the new schedule"),
        ("Views.draw.tags_prob=0.1", "Views.draw.tags_prob was 0.5 and is 0.1"),
    ],
)
def test_each_change_is_a_line(checkpoint, override, said):
    folder, config = checkpoint
    (line,) = changes(folder, load_config(config, [override]))
    assert said in line and "\n" not in line


@pytest.mark.parametrize(
    "override,said",
    [
        (
            "sources.own.weight=2",
            "sources.own.weight was 1 and is 2: other data from here on, each source",
        ),
        ("sources.new={name: tsv, path: x.tsv}", "sources.new was null and is {'name': 'tsv'"),
        ("sources.new={name: tsv, path: x.tsv}", "where it would be had it been so from step 1"),
        ("temperature=2.0", "temperature was null and is 2.0: other data from here on"),
        ("on_end=stop", "on_end was null and is 'stop': the schedule ends elsewhere"),
    ],
)
def test_a_change_of_a_mixture_says_where_sources_go_on(checkpoint, override, said):
    folder, config = checkpoint
    own = "{web: {name: tsv, path: a.tsv}, own: {name: tsv, path: b.tsv, weight: 1}}"
    mixture = f"DataLoader.Train.dataset={{name: mixture, sources: {own}}}"
    load_config(config, [mixture]).dump(folder / "config.yaml")
    now = load_config(config, [mixture, f"DataLoader.Train.dataset.{override}"])
    (line,) = changes(folder, now)
    assert said in line and "\n" not in line


def test_what_changes_no_weight_is_not_told(checkpoint):
    folder, config = checkpoint
    assert changes(folder, load_config(config)) == []
    harmless = ["Global.output_dir=x", "Global.save_interval=7", "DataLoader.Train.num_workers=1"]
    assert changes(folder, load_config(config, harmless)) == []


def test_a_configuration_of_another_version(checkpoint):
    folder, config = checkpoint
    old = yaml.safe_load((folder / "config.yaml").read_text())
    old["Gone"] = {"key": 1}
    old["Global"]["seed"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(old))
    lines = changes(folder, load_config(config))
    assert [line.split(" was ")[0] for line in lines] == ["Global.seed", "Gone"]
    (folder / "config.yaml").write_text("{")
    assert changes(folder, load_config(config)) == []


def test_a_run_warns_of_them(tmp_path):
    config = write_run(tmp_path)
    out = train(config, "Global.max_steps=1")
    train(config, "Global.max_steps=2", "Global.seed=7", resume="auto")
    log = (out / "train.log").read_text()
    assert "WARNING not as in step_00000001: Global.seed was 42 and is 7" in log
    assert "WARNING not as in step_00000001: Global.max_steps was 1 and is 2" in log


@pytest.mark.parametrize("first,then", [("[image]", "[]"), ("[]", "[image]")])
def test_freezing_may_change(tmp_path, first, then):
    config = write_run(tmp_path)
    out = train(config, f"Optimizer.freeze={first}", "Global.max_steps=2")
    train(config, f"Optimizer.freeze={then}", "Global.save_interval=1", resume="auto")
    before, after = weights(out, "step_00000002"), weights(out, "step_00000004")
    same = {np.array_equal(before[n], after[n]) for n in before if n.startswith("image_tower.")}
    assert same == {then == "[image]"}
