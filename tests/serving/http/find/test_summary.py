"""What a collection can be filtered by."""

import threading

from ernie_vil2.search.collection import Picture
from ernie_vil2.serving.http.find.summary import Summaries, summarise


def picture(path, taken=0, tags=()):
    return Picture("0" * 20, path, "", 0, 0, taken, 1, 1, 0, tags)


PICTURES = [
    picture("/home/me/a/1.png", 30, ("cat", "snow")),
    picture("/home/me/a/b/2.png", 10, ("cat",)),
    picture("/home/me/c/3.png", 20),
]


def test_folders_have_what_lies_below_them_and_none_is_above_all():
    summary = summarise(PICTURES)
    assert dict(summary.folders) == {"/home/me/a": 2, "/home/me/a/b": 1, "/home/me/c": 1}
    assert summary.tags == [("cat", 2), ("snow", 1)]
    assert (summary.oldest, summary.newest) == (10, 30)
    assert dict(summarise(PICTURES[:1]).folders) == {"/home/me/a": 1}
    assert summarise([]).folders == []


def test_nobody_waits_for_a_count_and_it_is_not_done_again_at_once():
    go, counts = threading.Event(), []

    def pictures():
        counts.append(1)
        go.wait(10)
        return PICTURES

    summaries = Summaries(pictures)
    assert summaries.latest(3, wait=0.05) is None
    assert summaries.latest(3, wait=0.05) is None  # one count at a time
    go.set()
    while summaries.latest(3) is None:
        pass
    assert summaries.latest(4).newest == 30  # of a moment ago
    assert len(counts) == 1
