"""No lock holds a version with a known hole that a later one has mended."""

import pytest

from tools import audit

LOCKS = sorted(audit.ROOT.glob("requirements*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_no_lock_has_a_known_hole(lock):
    assert audit.entries(lock)
    assert audit.findings(lock) == []


def test_an_old_version_is_found(tmp_path):
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "# a comment\nh11==0.14.0\n    # via uvicorn\nJinja2==3.1.4\nnumpy==1.24.4\n"
        "python_multipart==0.0.20 ; python_full_version < '3.10'\n"  # nothing later there
        "filelock==3.19.1 ; python_full_version >= '3.10'\n"
    )
    found = audit.findings(lock)
    assert [line.split()[1] for line in found] == ["h11", "Jinja2", "filelock"]
    assert found[0] == (
        "requirements.txt: h11 0.14.0 has CVE-2025-43859; renew it to 0.16.0 or later "
        "(bash tools/lock.sh)"
    )


def test_what_is_held_is_in_its_lock_and_below():
    """An exception that is not needed any more must go."""
    for name, package in audit.HELD:
        entry = next(e for e in audit.entries(audit.ROOT / name) if e.name == package)
        (pin,) = entry.specifier
        assert audit.Version(pin.version) < audit.Version(audit.MENDED[package].version)


def test_the_exit_code_says_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audit, "ask_pip_audit", lambda lock: None)
    (tmp_path / "requirements.txt").write_text("h11==0.14.0\n")
    assert audit.main([str(tmp_path / "requirements.txt")]) == 1
    assert "1 findings in 1 locks" in capsys.readouterr().out
    assert audit.main([str(audit.ROOT / "requirements.txt")]) == 0
