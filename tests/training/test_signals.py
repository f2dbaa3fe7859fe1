"""Which signals end a run."""

import signal

from ernie_vil2.training.signals import stop_signals


def test_nohup_is_respected():
    assert signal.SIGHUP in stop_signals()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)
