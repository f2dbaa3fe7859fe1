"""The views: what they are called, what they show, and that all who name them agree."""

import subprocess
import sys

from ernie_vil2 import views
from ernie_vil2.config.load import load_config


def test_each_view_shows_what_its_name_says():
    for view, source in views.SOURCE_OF.items():
        assert view in (f"{source}1", f"{source}2")
    assert set(views.SOURCE_OF.values()) == set(views.SOURCES)
    assert (*views.IMAGE_VIEWS, *views.TEXT_VIEWS) == views.VIEWS


def test_the_defaults_are_those_of_the_packaged_configuration():
    config = load_config("base")
    assert config.Views.image == views.DEFAULT_IMAGE_VIEWS
    assert config.Views.text == views.DEFAULT_TEXT_VIEWS
    assert tuple(pair.views for pair in config.Loss.pairs) == views.DEFAULT_PAIRS


def test_it_stands_on_the_standard_library():
    code = "import sys, ernie_vil2.views; print(*(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "paddle", "yaml"} & set(done.stdout.split())
