"""Shards by a Ray cluster of two machines, of which one is killed half-way.

python ray_job.py SOURCE.tsv OUT LOG; prints the seconds from the start to each event.
"""

import os
import sys
import threading
import time
from pathlib import Path

from ernie_vil2.data.formats.tsv import TsvReader

SLOW = 0.05  # seconds for a read, so that both machines get their share
HALF_WAY = 31  # reads of a machine: the third in a piece of four


class SlowReader(TsvReader):
    """Rows of a TSV, read slowly; where, is written to a log: a machine's id a line."""

    def __init__(self, path, log):
        super().__init__(path)
        self._seen = Path(log)

    def _get(self, position):
        import ray

        if ray.is_initialized():
            node = ray.get_runtime_context().get_node_id()
            with open(self._seen, "a") as file:
                file.write(f"{node}\n")
            # long enough within a piece for the machine to be killed there
            time.sleep(3 if self._seen.read_text().count(node) == HALF_WAY else SLOW)
        return super()._get(position)


def main(source, out, log):
    from ray.cluster_utils import Cluster

    from tools.prepare_data import main as prepare_data

    start = time.monotonic()

    def say(what):
        print(f"{time.monotonic() - start:.1f} s: {what}", flush=True)

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"}
    quiet = {"include_log_monitor": False}
    cluster = Cluster(
        initialize_head=True, head_node_args={**node, **quiet, "include_dashboard": False}
    )
    other = cluster.add_node(**node, **quiet)
    os.environ["RAY_ADDRESS"] = cluster.address
    say("two machines")

    def kill():
        while not (log.exists() and log.read_text().count(other.node_id) >= HALF_WAY):
            time.sleep(0.05)
        cluster.remove_node(other, allow_graceful=False)
        say(f"killed {other.node_id}")

    threading.Thread(target=kill, daemon=True).start()
    reader = ["name=tests.support.scripts.ray_job.SlowReader", f"path={source}", f"log={log}"]
    command = ["shard", "--dataset", *reader, "--out", str(out), "--engine", "ray"]
    prepare_data([*command, "--records", "16", "--piece", "4", "--near", "1"])
    say("done")
    import ray

    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
