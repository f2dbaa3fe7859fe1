import threading
import time

import pytest

from ernie_vil2.serving.http.batcher import Batcher, QueueFull


class Recorder:
    """A model that squares, notes its batches, and can be held up."""

    def __init__(self):
        self.batches = []
        self.threads = set()
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def load(self):
        return {"square": self.square, "negate": lambda items: [-x for x in items]}

    def square(self, items):
        self.entered.set()
        assert self.go.wait(10)
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(items))
        return [x * x for x in items]


@pytest.fixture
def model():
    return Recorder()


@pytest.fixture
def start(model):
    started = []

    def start(load=model.load, max_batch=8, **options):
        kinds = ("square", "negate", "id")
        batcher = Batcher(load, dict.fromkeys(kinds, max_batch), **options)
        started.append(batcher)
        batcher.start()
        wait_until(lambda: batcher.ready or batcher.error)
        return batcher

    yield start
    model.go.set()
    for batcher in started:
        assert batcher.close(10)


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.001)


def test_requests_share_a_batch_and_get_their_own_results(start, model):
    batcher = start(max_batch=6, max_wait=5.0)
    futures = [batcher.submit("square", items) for items in ([1, 2], [3], [4, 5, 6])]
    assert [future.result(1) for future in futures] == [[1, 4], [9], [16, 25, 36]]
    assert model.batches == [[1, 2, 3, 4, 5, 6]]  # full: nobody waited 5 s
    assert model.threads == {"batcher"}


def test_a_lonely_item_waits_no_longer_than_the_bound(start):
    batcher = start(max_batch=100, max_wait=0.1)
    start_time = time.monotonic()
    assert batcher.submit("square", [3]).result(5) == [9]
    assert 0.09 < time.monotonic() - start_time < 2


def test_a_large_request_is_split_and_joined(start, model):
    batcher = start(max_batch=4, max_wait=0.0)
    assert batcher.submit("square", range(10)).result(5) == [i * i for i in range(10)]
    assert [len(batch) for batch in model.batches] == [4, 4, 2]
    assert batcher.submit("square", []).result(0) == []


def test_kinds_are_not_mixed_and_none_starves(start, model):
    batcher = start(max_batch=2, max_wait=0.0)
    model.go.clear()
    first = batcher.submit("square", [1, 2])
    assert model.entered.wait(5)
    many = batcher.submit("square", range(100))
    other = batcher.submit("negate", [7])
    assert batcher.waiting == 101
    model.go.set()
    assert other.result(5) == [-7]
    assert first.result(5) == [1, 4]
    assert many.result(5)[-1] == 99 * 99
    assert batcher.waiting == 0


def test_the_queue_is_bounded_and_says_when_to_come_back(start):
    batcher = start(max_queue=3)
    with batcher.admit(2):
        with pytest.raises(QueueFull) as full, batcher.admit(2):
            pass
        assert full.value.retry_after >= 1
        with batcher.admit(1):
            assert batcher.admitted == 3
    with batcher.admit(3), pytest.raises(KeyError):
        raise KeyError  # room is given back after an error too
    with batcher.admit(3):
        pass
    assert batcher.admitted == 0


def test_cancelled_work_leaves_the_queue_at_once(start, model):
    batcher = start(max_batch=2, max_wait=0.0)
    model.go.clear()
    running = batcher.submit("square", [1, 2, 3, 4])
    assert model.entered.wait(5)  # with 1 and 2
    queued = batcher.submit("square", [5, 6])
    kept = batcher.submit("square", [7])
    assert queued.cancel()
    assert running.cancel()
    assert batcher.waiting == 1
    model.go.set()
    assert kept.result(5) == [49]
    assert model.batches == [[1, 2], [7]]


def test_an_error_reaches_its_own_batch_alone(start, logged):
    def fail(items):
        if 13 in items:
            raise ArithmeticError("unlucky")
        return items

    batcher = start(lambda: {"id": fail}, max_batch=2, max_wait=0.0)
    bad = batcher.submit("id", [1, 2, 13, 4, 5, 6])
    with pytest.raises(ArithmeticError, match="unlucky"):
        bad.result(5)
    assert batcher.submit("id", [1, 2]).result(5) == [1, 2]
    assert batcher.waiting == 0
    assert "unlucky" in logged.text


def test_a_model_that_cannot_be_loaded(start):
    def load():
        raise ValueError("damaged")

    batcher = start(load)
    assert isinstance(batcher.error, ValueError)
    assert not batcher.ready
    with pytest.raises(RuntimeError, match="not at work"):
        batcher.submit("square", [1])


def test_close_finishes_what_is_queued(start, model):
    batcher = start(max_batch=1, max_wait=0.0)
    model.go.clear()
    futures = [batcher.submit("square", [i]) for i in range(5)]
    assert not batcher.close(0.05)
    with pytest.raises(RuntimeError):
        batcher.submit("square", [1])
    model.go.set()
    assert [future.result(5) for future in futures] == [[i * i] for i in range(5)]
    assert batcher.close(5)


def test_a_hanging_model_is_noticed(start, model):
    batcher = start(max_wait=0.0)
    assert not batcher.stuck(0.05)
    model.go.clear()
    future = batcher.submit("square", [1])
    wait_until(lambda: batcher.stuck(0.05))
    assert not batcher.stuck(60)
    model.go.set()
    assert future.result(5) == [1]
    wait_until(lambda: not batcher.stuck(0.05))


def test_many_clients_at_once(start, model):
    seen = []
    batcher = start(max_batch=16, max_wait=0.001, on_batch=lambda *batch: seen.append(batch))
    wrong = []

    def client(seed):
        for i in range(50):
            items = [seed * 1000 + i, i]
            future = batcher.submit("square", items)
            if (seed + i) % 7 == 0:
                future.cancel()
            elif future.result(10) != [x * x for x in items]:
                wrong.append(items)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    wait_until(lambda: batcher.waiting == 0)
    assert sum(items for _, items, _ in seen) == sum(map(len, model.batches))
    assert max(map(len, model.batches)) > 2


def test_kinds_take_turns(start, model):
    """An item of one kind does not wait for all of another that came before it."""
    order = []
    batcher = start(max_batch=1, max_wait=0, on_batch=lambda kind, *_: order.append(kind))
    model.go.clear()
    first = batcher.submit("square", [1])
    assert model.entered.wait(10)
    futures = [batcher.submit("square", [i]) for i in range(4)] + [batcher.submit("negate", [7])]
    model.go.set()
    assert [future.result(10) for future in [first, *futures]][-1] == [-7]
    assert order.index("negate") == 1
