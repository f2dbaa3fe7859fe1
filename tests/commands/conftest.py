"""What tests of the evaluation command share: a trained model, and the command."""

import json

import pytest

from ernie_vil2 import cli
from tests.support.shapes import write_run
from tools import eval as eval_tool
from tools import train as train_tool


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """A configuration, and the folder of a run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_run(folder)
    argv = ["-c", str(config), "-o", "Global.max_steps=1", "DataLoader.Eval=null"]
    assert cli.run(train_tool.main, argv) == 0
    return config, folder / "out"


@pytest.fixture
def evaluate(trained, tmp_path, capsys):
    """Options -> (exit code, report or None, standard output, error lines)."""

    def evaluate(*options, overrides=()):
        config, run = trained
        argv = ["-c", str(config), "-w", str(run), "--out", str(tmp_path / "eval"), *options]
        code = cli.run(eval_tool.main, [*argv, "-o", *overrides] if overrides else argv)
        printed, file = capsys.readouterr(), tmp_path / "eval" / "report.json"
        report = json.loads(file.read_text()) if file.is_file() else None
        errors = [line for line in printed.err.splitlines() if line.startswith("error:")]
        return code, report, printed.out, errors

    return evaluate
