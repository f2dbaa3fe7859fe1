"""The files of `embed` do not tell who wrote them, nor how often he was killed."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.embedding.conftest import CUT
from tests.support import killed_embed
from tests.support.files import contents
from tests.support.killed_embed import dies
from tests.support.paths import ROOT
from tests.support.processes import forking


def test_any_number_of_processes_and_threads_writes_the_same(embed, as_data_set, tmp_path):
    whole = embed("whole", *as_data_set, *CUT, "--processes", "0", "--threads", "1")
    assert len(whole) == 3 * 3 + 2
    assert embed("two", *as_data_set, *CUT, "--processes", "2", "--threads", "2") == whole
    assert embed("two", *as_data_set, *CUT) == whole  # done: nothing to do
    assert embed("whole", *as_data_set, *CUT, "--restart") == whole
    # with other options nothing of the earlier job stays, not even a folder
    embed("two", *as_data_set, "--images", "--restart")
    assert sorted(path.name for path in (tmp_path / "two").iterdir() if path.is_dir()) == [
        ".work",
        "img_emb",
        "metadata",
    ]


def test_killed_in_20_places(embed, tiny_artefact, as_data_set, tmp_path):
    context = forking(killed_embed.__name__)
    whole = embed("whole", *as_data_set, *CUT, "--jsonl", "--processes", "0")
    command = [str(tiny_artefact), *as_data_set, *CUT, "--jsonl", "--processes", "0", "-o"]
    total = dies(context, 0, [*command, str(tmp_path / "counted")])
    assert total > 60 and contents(tmp_path / "counted", ".work") == whole
    left = set()
    for attempt, number in enumerate(np.linspace(1, total, 20).astype(int).tolist()):
        out = tmp_path / f"killed{number}"
        assert dies(context, number, [*command, str(out)]) is None
        left.add(len(contents(out, ".work")))
        if attempt % 4 == 0:  # is killed once more as it goes on
            dies(context, 9, [*command, str(out)])
        assert embed(out.name, *as_data_set, *CUT, "--jsonl", "--processes", "0") == whole
        assert not list(out.glob(".work/*/*"))
    assert {0, len(whole)} < left  # before the first file of the output, and after its last


@pytest.mark.slow
def test_on_ray_it_is_the_same(embed, tiny_artefact, as_data_set, tmp_path):
    pytest.importorskip("ray")
    whole = embed("whole", *as_data_set, *CUT)
    script = """
        import sys

        import ray

        from tools.embed import main

        ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
        main(sys.argv[1:])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tiny_artefact), *as_data_set]
    command += [*CUT, "--engine", "ray", "-o", str(tmp_path / "ray")]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all of Ray listens on 127.0.0.1
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=240)
    assert contents(tmp_path / "ray", ".work") == whole
