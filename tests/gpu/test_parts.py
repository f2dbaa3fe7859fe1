"""The parts of tools/gpu_check.sh that need one GPU and no launch, as tests."""

import pytest

from tests.support import gpus
from tools.gpu_check import parts
from tools.gpu_check.rows import HEAD, Setting, exit_code, line

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.mark.parametrize("name", parts.ON_GPU_MARK)
def test_the_part_passes(tmp_path, name):
    setting = Setting(gpus.labels()[:1], 1, str(tmp_path))
    part = next(part for part in parts.PARTS if part.name == name)
    rows = list(parts.run(part, setting, gpus.environment()))
    print("\n".join([HEAD, *map(line, rows)]))
    assert exit_code(rows) == 0
