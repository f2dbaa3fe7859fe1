"""The same map on a Ray cluster, a real one of two machines on this one."""

import json
import os
import subprocess
import sys

import pytest

from ernie_vil2.data.jobs.engine import Engine
from ernie_vil2.data.jobs.shard import MANIFEST, Options, write_shards
from ernie_vil2.data.jobs.source import Source
from tests.support.files import contents
from tests.support.paths import ROOT
from tests.support.shapes import write_set

pytest.importorskip("ray")


@pytest.mark.slow
def test_a_machine_killed_half_way(tmp_path):
    """Same files as from processes of this machine, nothing twice, and the killed one had begun."""
    source, log = tmp_path / "train.tsv", tmp_path / "log"
    write_set(source, copies=4, seed=0)
    text = source.read_text(encoding="utf-8")
    source.write_text(text + text[: text.index("\n") + 1] + "no record\n", encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all of Ray listens on 127.0.0.1
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",  # where other tests keep the cores
    }
    script = ROOT / "tests" / "support" / "scripts" / "ray_job.py"
    command = [sys.executable, str(script), str(source), str(tmp_path / "ray"), str(log)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    killed = done.stdout.partition(": killed ")[2].split()[0]
    nodes = log.read_text().split()
    assert len(set(nodes)) == 2 and nodes[-1] != killed
    assert 0 < nodes[::-1].index(killed) < len(nodes) - 30  # others went on after its end
    assert len(nodes) > 66 + 64  # some were read again: those of the piece that it had begun
    options = Options(records=16, piece=4, near=1)
    write_shards(Source({"name": "tsv", "path": str(source)}), tmp_path / "here", options, Engine())
    found, expected = (contents(tmp_path / name, ".work") for name in ("ray", "here"))
    manifests = [json.loads(files.pop(MANIFEST)) for files in (found, expected)]
    assert all(manifest.pop("source") for manifest in manifests)  # another reader's name
    assert manifests[0] == manifests[1] and found == expected and len(found) == 6
