"""A few of many files held open: those used last, and none that nobody reads any more."""

import os
import threading

from ernie_vil2.data.files import opened
from ernie_vil2.data.files.local import LocalFiles


def files(folder, count: int) -> LocalFiles:
    paths = [folder / str(number) for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%05d" % number)
    return LocalFiles(list(map(str, paths)))


def held(folder) -> list[int]:
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return sorted(int(os.path.basename(t)) for t in targets if os.path.dirname(t) == str(folder))


def test_those_used_last_are_held_open(tmp_path):
    reads = opened.OpenFiles(files(tmp_path, 10), limit=3)
    for number in (0, 1, 2, 0, 3):
        assert reads.read(number, 1, 4) == b"%04d" % number
    assert held(tmp_path) == [0, 2, 3]
    assert reads.read(0, 3, 100) == b"00" and reads.read(0, 9, 1) == b""
    del reads
    assert held(tmp_path) == []


def test_what_was_not_read_for_long_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "_IDLE", 20)
    reads = opened.OpenFiles(files(tmp_path, 10))
    for number in (0, 1):
        reads.read(number, 0, 1)
    for _ in range(20):
        reads.read(1, 0, 1)
    reads.read(2, 0, 1)
    assert held(tmp_path) == [1, 2]


def test_threads_that_open_and_close_each_others_files(tmp_path):
    reads = opened.OpenFiles(files(tmp_path, 10), limit=2)
    wrong = []

    def work(step: int) -> None:
        for n in range(3000):
            number = n * step % 10
            if reads.read(number, 0, 5) != b"%05d" % number:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=[step]) for step in (1, 3, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(held(tmp_path)) <= 2 + len(threads)
