"""What several tests of this folder start from."""

import shutil

import pytest


@pytest.fixture
def paddlenlp_folder(fixtures_dir, tmp_path):
    """A copy of PaddleNLP's folder."""
    for name in ("config.json", "model_state.pdparams"):
        (tmp_path / "nlp").mkdir(exist_ok=True)
        shutil.copyfile(fixtures_dir / "paddlenlp_tiny" / name, tmp_path / "nlp" / name)
    return tmp_path / "nlp"
