"""Groups of gradients on their way; test_exact.py averages them over two processes."""

import paddle
import pytest

from ernie_vil2.distributed import reducer
from ernie_vil2.distributed.masters import Masters
from ernie_vil2.distributed.reducer import Reducer


@pytest.fixture
def sent(monkeypatch):
    """Two processes in one: what is sent, and comes back as the sum with itself."""
    found = []

    class Task:
        def __init__(self, flat):
            self.flat = flat

        def wait(self):
            self.flat.scale_(2.0)

    def start(flat):
        found.append(flat.tolist())
        return Task(flat)

    monkeypatch.setattr(reducer.buckets, "BYTES", 16)  # 4 numbers
    monkeypatch.setattr(reducer.ranks, "start_all_reduce", start)
    monkeypatch.setattr(reducer.ranks, "world_size", lambda: 2)
    return found


def parameters(*sizes):
    made = {str(i): paddle.create_parameter([n], "float32") for i, n in enumerate(sizes)}
    return made, Masters(made, {})


def test_groups_go_out_in_one_order_while_the_backward_goes_on(sent):
    made, masters = parameters(2, 2, 3, 6)  # from behind: [3], [2], [1, 0]
    reduction = Reducer(made, masters)
    during = []
    made["0"]._register_backward_hook(lambda *_: during.append(len(sent)))
    for step in (1.0, 2.0):
        sent.clear()
        made["1"].sum().backward()  # as in no_sync: it stays here
        assert sent == []
        reduction.begin()
        # gradients come first for what a forward used last
        y = made["0"].sum() * step
        for name in "123":
            y = y + made[name].sum() * step
        y.backward()
        assert sent == [[step / 2] * 6, [step / 2] * 3, [(step + 1) / 2] * 2 + [step / 2] * 2]
        reduction.finish()
        assert made["0"].grad.tolist() == [step] * 2
        assert made["1"].grad.tolist() == [step + 1] * 2
        assert made["3"].grad.tolist() == [step] * 6
        for p in made.values():
            p.clear_gradient(False)
    assert max(during) >= 2  # when the last gradient came


def test_what_the_last_backward_leaves_out_goes_out_at_the_end(sent):
    made, masters = parameters(2, 3, 3, 3)  # from behind: [3], [2], [1], [0]
    reduction = Reducer(made, masters)
    (made["0"] * 1.0).sum().backward()
    reduction.begin()
    made["2"].sum().backward()
    assert sent == []  # [3] has to be first
    reduction.finish()
    assert sent == [[0.5] * 3, [0.5] * 2]
    assert made["0"].grad.tolist() == [1.0] * 2 and made["2"].grad.tolist() == [1.0] * 3
    assert made["1"].grad is None and made["3"].grad is None
