"""How pytest-xdist shares out the tests: `tools/test.sh --jobs N`."""

from collections import OrderedDict

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.support.paths import ROOT

# What shares a fixture over files: a browser and its server; a Milvus, of which one runs at a time
TOGETHER = ("tests/serving/http/find/test_page", "tests/search/")


class ByFile(LoadScopeScheduling):
    """A file's tests stay together, for their fixtures; files with slow ones begin."""

    workqueue: OrderedDict[str, dict[str, bool]]

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((start for start in TOGETHER if path.startswith(start)), path)

    def _assign_work_unit(self, node: WorkerController) -> None:
        slow = next(filter(_is_slow, self.workqueue), None)
        if slow is not None:
            self.workqueue.move_to_end(slow, last=False)
        super()._assign_work_unit(node)


def _is_slow(scope: str) -> bool:
    return scope in TOGETHER or "mark.slow" in (ROOT / scope).read_text(encoding="utf-8")
