"""Requests with texts alone do not wait for those with images, and waiting has an end."""

import threading
import time

import pytest

from ernie_vil2.serving.paddle_serving.turns import Busy, Gone, Turns


def here() -> bool:
    """Of a client that has not gone."""
    return False


def test_texts_pass_images():
    turns = Turns(working=1, waiting=1, seconds=30)
    order = []

    def image():
        with turns.turn("image", here):
            order.append("second image")

    with turns.turn("image", here):
        waits = threading.Thread(target=image)
        waits.start()
        with turns.turn("text", here):
            order.append("text")
    waits.join()
    assert order == ["text", "second image"]


def test_too_many_are_refused_and_a_wait_ends():
    turns = Turns(working=1, waiting=1, seconds=0.05)
    refused = []

    def image():
        with pytest.raises(Busy, match=r"not begun within 0\.05 s"), turns.turn("image", here):
            pass
        refused.append("late")

    with turns.turn("image", here):
        waits = threading.Thread(target=image)
        waits.start()
        waits.join()
    assert refused == ["late"]
    with turns.turn("image", here):  # its place is free again
        pass

    turns = Turns(working=1, waiting=0, seconds=30)
    with turns.turn("image", here):
        with pytest.raises(Busy, match="too many"), turns.turn("image", here):
            pass
        with turns.turn("text", here):
            pass


def test_nothing_is_done_for_a_client_that_left():
    turns = Turns(working=1, waiting=0, seconds=30)
    with pytest.raises(Gone), turns.turn("text", lambda: True):
        raise AssertionError("worked for nobody")
    with turns.turn("text", here):
        pass


def test_stuck_is_work_of_which_nothing_gets_done():
    turns = Turns(working=2, waiting=0, seconds=30)
    time.sleep(0.02)
    assert not turns.stuck(0.01)  # there is no work
    with turns.turn("image", here):
        time.sleep(0.02)
        assert turns.stuck(0.01)
        turns.moved()
        assert not turns.stuck(10)
    time.sleep(0.02)
    assert not turns.stuck(0.01)
