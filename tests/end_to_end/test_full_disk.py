"""A full disk is one line that names the path and the remedy, and costs nothing that was there."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests.support.faulty_runs import lines
from tests.support.paths import ROOT
from tests.support.processes import may_mount, on_small_disk
from tests.support.shapes import write_run
from tests.support.told import error_line

# Does all there is to do on the disk, fills it, does it again, makes room, and goes on.
SCRIPT = """
import contextlib, hashlib, io, json, sys
from pathlib import Path

from ernie_vil2 import cli, runtime
runtime.prepare()
from ernie_vil2.commands import convert, prepare_data, train
from ernie_vil2.evaluation.report import write_json

disk, config = Path(sys.argv[1]), sys.argv[2]
argv = ["-c", config, "-o", f"Global.output_dir={disk}/out", "Global.max_steps=1"]
texts = Path(config).with_name("texts.txt")

def vocabulary():
    out = ["--out", f"{disk}/vocab.txt"]
    return cli.run(prepare_data.main, ["vocab", "--input", str(texts), "--size", "999999", *out])

def conversion():
    source = ["--from", f"{disk}/out/checkpoints/latest", "--to", "ernie_vil2"]
    return cli.run(convert.main, [*source, "--out", f"{disk}/converted"])

def report(lines):
    return cli.run(lambda argv: write_json(disk / "report.json", {"a": ["x" * 99] * lines}))

def digests():
    files = sorted(path for path in disk.rglob("*") if path.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.name != ".lock"}

texts.write_text("one two three")
codes = [cli.run(train.main, argv), vocabulary(), conversion(), report(1)]
texts.write_text(" ".join(f"word{n}" for n in range(200_000)))
before = digests()
with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
    while True:
        file.write(bytes(1 << 12))
again = {
    "start": lambda: cli.run(train.main, argv),
    "resume": lambda: cli.run(train.main, [*argv, "Global.max_steps=2", "--resume", "auto"]),
    "vocabulary": vocabulary,
    "conversion": conversion,
    "report": lambda: report(99_999),
}
said = {}
for name, action in again.items():
    with contextlib.redirect_stderr(io.StringIO()) as err:
        code = action()
    said[name] = [code, err.getvalue()]
(disk / "filler").unlink()
same = before == digests()
codes.append(cli.run(train.main, [*argv, "Global.max_steps=2", "--resume", "auto"]))
print(json.dumps({"codes": codes, "said": said, "same": same}))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("full")
    if not may_mount(folder):
        pytest.skip("unshare may not mount here")
    disk = folder / "disk"
    disk.mkdir()
    done = subprocess.run(
        [*on_small_disk(disk), sys.executable, "-c", SCRIPT, str(disk), str(write_run(folder))],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["start", "resume", "vocabulary", "conversion", "report"])
def test_one_line_with_the_path_and_the_remedy(result, name):
    code, err = result["said"][name]
    line = error_line(err)
    assert code == 2
    assert line.startswith("error: ") and "No space left on device" in line
    assert re.search(r"/disk/(out|vocab\.txt|converted|report\.json)", line)
    assert "space there" in line or "make room" in line


def test_all_stays_as_it_was_and_goes_on_with_room_again(result):
    assert result["same"]
    assert result["codes"] == [0] * 5


def test_what_is_appended_is_whole_or_not_at_all(tmp_path):
    """So that a file's other lines can still be read."""
    script = """
        import os, resource
        from ernie_vil2.files.durable import append
        from ernie_vil2.training.faults import Faults
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        faults = Faults("lines", None, 1)
        for size in (60, 60, 10):
            try:
                faults.write(text="x" * size)
            except OSError as error:
                print(error)
    """
    done = python(script, cwd=tmp_path)
    assert [len(x["text"]) for x in lines(tmp_path / "lines")] == [60, 10]
    assert done.stdout.count("No space left") == 1


def test_a_full_disk_below_stdout_and_stderr(tmp_path):
    script = """
        import sys
        from pathlib import Path
        from tqdm import tqdm
        from ernie_vil2.training.runlog import log, start_logging
        start_logging(Path("out"), True)
        for _ in tqdm(range(1000), mininterval=0):
            log.info("x" * 99)
        print("x" * 99999)
        sys.exit(3)
    """
    with open("/dev/full", "w") as full:
        assert python(script, cwd=tmp_path, stdout=full, stderr=full, code=3)
    assert len((tmp_path / "out" / "train.log").read_text().splitlines()) == 1000


def python(script: str, code: int = 0, **options) -> subprocess.CompletedProcess:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, text=True, **options
    )
    assert done.returncode == code, done.stderr
    return done
