"""Studies as their YAML declares them."""

import json
from pathlib import Path

import pytest

from ernie_vil2 import cli
from ernie_vil2.commands.study import main
from ernie_vil2.config.load import load_config
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable
from ernie_vil2.studies.plan import read_plan
from ernie_vil2.studies.runs import Run, stages, words_of
from tests.support.paths import ROOT

GOOD = {
    "config": "configs/demo.yaml",
    "output_dir": "out",
    "seeds": [1, 2],
    "variants": {"one": {"Global.epochs": 1}, "two": {}},
}


def written(tmp_path, **changes):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({**GOOD, **changes}))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "studies").iterdir()), ids=str)
def test_studies_of_the_project_have_configurations(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = read_plan(path)
    assert len(plan.seeds) >= 3 and len(plan.variants) >= 4
    for variant in plan.variants:
        Run(plan, variant, plan.seeds[0]).check()
    configs = [
        load_config(plan.config, Run(plan, v, plan.seeds[0]).overrides)
        for v in plan.variants
        if not v.needs
    ]
    assert all(one != other for i, one in enumerate(configs) for other in configs[:i])


def test_the_study_of_few_labels_reads_a_class_name_for_each_photograph(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = read_plan("configs/studies/grocery_labels.yaml")
    if not (ROOT.parent / "shared" / "data" / "grocery").is_dir():
        pytest.skip("no ../shared/data/grocery beside this clone")
    for part, count in (("Train", 2936), ("Eval", 2485)):
        reader = build_reader(**plan.set[f"DataLoader.{part}.dataset"])
        names = {reader.texts(number)[0] for number in range(len(reader))}
        assert (len(reader), len(names)) == (count, 81)
        assert all(len(reader[number].captions) == 1 for number in (0, 99))


def test_defaults(tmp_path):
    plan = read_plan(written(tmp_path))
    assert plan.equal == ("steps",) and "text_to_image/R@10" in plan.figures.values()
    assert [v.name for v in plan.variants] == ["one", "two"] and plan.before == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sedes": [1]}, 'has no place for sedes; did you mean "seeds"?'),
        ({"seeds": [1, 1]}, "seeds is [1, 1]: expected a list of different whole numbers"),
        ({"seeds": []}, "expected a list of different"),
        ({"equal": ["epochs"]}, "equal is ['epochs']: expected steps, time or both"),
        ({"variants": {"a": 3}}, "variant a is 3: expected keys of the configuration"),
        ({"variants": {"a": {"before": "export"}}}, "variant a: before is 'export': expected a"),
        ({"variants": {"a b": {}, "a-b": {}}}, "variants a b and a-b would share the folder a-b"),
        ({"variants": {"a": {"Global.pretrained": "{run b}"}, "b": {}}}, "stands above it"),
        ({"parameters": {"seed": "1"}}, "parameters is {'seed': '1'}: expected names in small"),
        ({"parameters": {"data": 1}}, "parameters is {'data': 1}: expected names in small"),
        ({"config": None}, "config is None: expected the path of a configuration"),
    ],
)
def test_what_is_no_study_is_one_line(tmp_path, changes, said):
    with pytest.raises(UserError) as error:
        read_plan(written(tmp_path, **changes))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_setting_that_no_run_can_have_names_its_variant(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = read_plan(written(tmp_path, variants={"bad": {"Global.epohcs": 1}}))
    with pytest.raises(UserError, match=r"variant bad: .*epochs"):
        Run(plan, plan.variants[0], 1).check()


def test_placeholders(tmp_path):
    study = str(tmp_path / "a study")
    value = {"Global.pretrained": "{run one}", "X": ["{study}/{seed}"]}
    variants = {
        "one": {},
        "two": {"before": ["export -w {run one} --save-dir {study}/{seed}"], "set": value},
    }
    plan = read_plan(written(tmp_path, variants=variants, output_dir=study))
    one, two = (Run(plan, variant, 2) for variant in plan.variants)
    checkpoint = one.folder / "checkpoints" / "step_00000003"
    checkpoint.mkdir(parents=True)
    (checkpoint.parent / "step_00000001").mkdir()
    assert two.fill(value) == {"Global.pretrained": str(checkpoint), "X": [f"{study}/2"]}
    words = words_of(plan.variants[1].before[0], plan, 2, lambda name: f"a {name}")
    assert words == ["export", "-w", "a one", "--save-dir", f"{study}/2"]
    assert one.folder == Path(study) / "steps" / "one" / "seed-2"


def test_runs_wait_for_none_but_what_they_need(tmp_path):
    variants = {"one": {}, "two": {}, "on": {"Global.pretrained": "{run one}"}, "last": {}}
    plan = read_plan(written(tmp_path, variants=variants))
    runs = [Run(plan, variant, seed) for variant in plan.variants for seed in plan.seeds]
    assert stages(runs, [None] * 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    done = [True, False, False, False, True, False, False, True]
    assert stages(runs, [{} if one else None for one in done]) == [[1, 2, 3], [5, 6]]


def test_a_run_judged_by_another_set_is_another(tmp_path):
    test = {"DataLoader.Eval.dataset.path": "{study}/test.tsv"}
    one, other = (
        Run(plan, plan.variants[0], 1)
        for plan in (
            read_plan(written(tmp_path, output_dir=str(tmp_path))),
            read_plan(written(tmp_path, output_dir=str(tmp_path), test=test)),
        )
    )
    assert one.overrides == other.overrides  # it does not choose checkpoints
    one.folder.mkdir(parents=True)
    done = {"overrides": one.settled(), "steps": 3}
    durable.replace_text(one.folder / "run.json", durable.sealed(done))
    assert one.result()["steps"] == 3
    with pytest.raises(UserError, match="holds a run with other settings"):
        other.result()


def test_the_command_line_changes_parameters(tmp_path):
    variants = {"one": {"DataLoader.Train.dataset.path": "{data}/train.tsv"}, "two": {}}
    command = "prepare-data vocab --input {data}/*.tsv --out {study}/vocab.txt"
    path = written(
        tmp_path,
        variants=variants,
        before=[command],
        parameters={"data": "my photos"},
        output_dir=str(tmp_path / "its own"),
    )
    plan = read_plan(path)
    other = read_plan(path, {"data": "other's"}, tmp_path / "another")
    assert Run(plan, plan.variants[0], 1).overrides[0].endswith('="my photos/train.tsv"')
    assert Run(other, plan.variants[0], 1).overrides[0].endswith('="other\'s/train.tsv"')
    out = f"{tmp_path / 'another'}/vocab.txt"
    assert words_of(command, other, 1, str)[2:] == ["--input", "other's/*.tsv", "--out", out]
    # the same folder with other data is another study
    again = read_plan(path, {"data": "other's"})
    assert Run(plan, plan.variants[1], 1).settled() != Run(again, plan.variants[1], 1).settled()
    with pytest.raises(UserError, match='no parameter dat; did you mean "data"'):
        read_plan(path, {"dat": "x"})


@pytest.mark.parametrize("text", ["data", "=photos", "data="])
def test_a_parameter_without_a_value_is_one_line(tmp_path, text, capsys):
    assert cli.run(main, [str(written(tmp_path)), "-p", text]) == 2
    assert capsys.readouterr().err == (
        f'error: -p {text}: expected NAME=VALUE, e.g. "data=photos"\n'
    )
