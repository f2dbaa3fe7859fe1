"""Failing assertions in what these tests share are explained like those of a test."""

import pytest

pytest.register_assert_rewrite("tests.support.faulty_runs")
