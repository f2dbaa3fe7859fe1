"""Where the tests find what they use."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "support" / "scripts"  # what tests start as processes of their own
FIXTURES = ROOT.parent / "shared" / "fixtures"  # the official code's numbers, where there are any
