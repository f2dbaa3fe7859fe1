"""The log of a run, where it cannot be written."""

import logging
import shutil

from ernie_vil2.training.runlog import log, start_logging


def test_a_folder_that_is_gone_costs_lines_and_no_more(tmp_path, capsys):
    start_logging(tmp_path / "run", is_main=True)
    (handler,) = (x for x in log.handlers if isinstance(x, logging.FileHandler))
    log.info("one")
    assert "one" in (tmp_path / "run" / "train.log").read_text()
    handler.close()
    shutil.rmtree(tmp_path / "run")
    for line in ("two", "three"):
        log.info(line)
    said = capsys.readouterr().err
    assert said.count("are lost") == 1 and "three" in said
