import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_vil2.data.close_hashes import CloseHashes, close_pairs, hamming


def differing(one: int, other: int) -> int:
    return bin((one ^ other) & (2**64 - 1)).count("1")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.sampled_from([0, 3, 6, 9]),
    st.data(),
)
def test_all_close_pairs_are_found(hashes, bits, data):
    for place in range(1, len(hashes)):  # most of them near to one another
        if data.draw(st.booleans()):
            flips = data.draw(st.sets(st.integers(0, 63), max_size=bits + 2))
            flipped = (hashes[place - 1] & (2**64 - 1)) ^ sum(1 << flip for flip in flips)
            hashes[place] = flipped - 2**64 if flipped >= 2**63 else flipped
    exact = [
        [i, j]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if differing(hashes[i], hashes[j]) <= bits
    ]
    array = np.array(hashes, np.int64)
    assert close_pairs(array, bits).tolist() == exact
    between = [[differing(one, other) for other in hashes] for one in hashes]
    assert hamming(array[:, None], array).tolist() == between
    before = CloseHashes(bits)
    for place in range(len(hashes)):
        near = [[0, i] for i, j in exact if j == place]
        assert before.pairs(array[place : place + 1]).tolist() == near
        before.add(array[place : place + 1])
