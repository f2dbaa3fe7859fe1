"""How processes begin and end together."""

import pytest

from ernie_vil2 import distributed
from tests.support.paths import SCRIPTS
from tests.support.processes import launch


def test_alone_leaving_is_an_exit_code():
    assert [distributed.leave(code) for code in (0, 1)] == [0, 1]


@pytest.mark.parametrize("first", ["0", "1"])
def test_a_process_that_has_done_its_work_does_not_die_of_its_clean_up(tmp_path, first):
    printed = launch(2, tmp_path, SCRIPTS / "leave.py", first)
    assert "done by 0" in printed and "done by 1" in printed
