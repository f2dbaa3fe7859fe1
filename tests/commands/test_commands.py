"""`ernie-vil2 COMMAND`: it calls the command's main, and names itself."""

import subprocess
import sys

import pytest

from ernie_vil2 import cli, commands
from ernie_vil2.config.load import load_config, locate, packaged
from ernie_vil2.errors import UserError


@pytest.fixture(autouse=True)
def argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ernie-vil2"])


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_names_itself_in_its_usage(name, capsys):
    with pytest.raises(SystemExit) as end:
        commands.main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ernie-vil2 {name} ")


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for name, about in commands.COMMANDS.items():
        assert f"  {name}" in said and about in said


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ernie_vil2 import commands\n"
        "try: commands.main(['train', '--help'])\n"
        "except SystemExit: print(sorted({'numpy', 'paddle', 'yaml', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "a command is missing: one of train, eval, "),
        (["trian"], 'unknown command trian; did you mean "train"?'),
        (["train", "-c", "nowhere"], "nowhere: No such file"),
    ],
)
def test_mistakes_are_one_line(argv, said, capsys):
    assert cli.run(commands.main, argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "9" * 10, "9" * 5000])
def test_a_number_that_nobody_means(text, capsys):
    argv = ["prepare-data", "vocab", "--out", "x", "--input", "y", f"--size={text}"]
    with pytest.raises(SystemExit) as end:
        commands.main(argv)
    assert end.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("is no whole number from 1 to 999999999") and len(said) < 120


def test_a_package_that_an_extra_brings_is_named(capsys):
    def main(argv):
        raise ModuleNotFoundError("No module named 'fastapi.routing'", name="fastapi.routing")

    assert cli.run(main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fastapi is not installed" in line and "extra serve" in line


def test_a_module_of_our_own_that_is_missing_is_no_mistake_of_the_user():
    def main(argv):
        raise ModuleNotFoundError("No module named 'ernie_vil2.lost'", name="ernie_vil2.lost")

    with pytest.raises(ModuleNotFoundError):
        cli.run(main)


# -- Configurations that come with the package -----------------------------------------------------


@pytest.mark.parametrize("name", ["base", "base.yaml", "configs/base.yaml", "./configs/base"])
def test_a_packaged_configuration_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate(name) == str(packaged() / "base.yaml")


@pytest.mark.parametrize("name", ["nowhere", "other/base.yaml", "../base.yaml", "base.yml", ""])
def test_other_names_stay_as_they_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate(name) == name


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("Globl: {}\n")
    with pytest.raises(UserError, match=r"^base.yaml: unknown key Globl"):
        load_config("base.yaml")
    (tmp_path / "base.yaml").unlink()
    (tmp_path / "base.yaml").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"^base.yaml: No such file .* package: base, base_cnn, "):
        load_config("base.yaml")


def test_a_base_is_found_likewise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for base in ("base", "base.yaml", "configs/base.yaml"):
        (tmp_path / "folder/mine.yaml").write_text(f"_BASE_: {base}\nGlobal: {{epochs: 3}}\n")
        config = load_config("folder/mine.yaml")
        assert (config.Global.epochs, config.Arch.Text.hidden_size) == (3, 768)
