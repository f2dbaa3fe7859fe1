"""The package itself."""

import subprocess
import sys

from tests.support.paths import ROOT


def test_import_is_cheap():
    code = "import ernie_vil2, sys; assert not {'paddle', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
