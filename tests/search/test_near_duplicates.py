import io
import tarfile
import time

import numpy as np
import sklearn.datasets
from PIL import Image

from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.jobs.hashes import difference_hash
from ernie_vil2.search.near_duplicates import BITS, COSINE, groups
from tests.support.collections import unit
from tests.support.paths import ROOT

GROCERY = ROOT.parent / "shared" / "data" / "grocery"


def bits(one, other) -> int:
    return bin((int(one) ^ int(other)) & (2**64 - 1)).count("1")


def file(image, kind="JPEG", **options) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def hashed(data: bytes) -> int:
    return int(np.uint64(difference_hash(decode_image(data))).astype(np.int64))


def cropped(image, share: float):
    x, y = int(image.width * share), int(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def photographs() -> list:
    """scikit-learn's two, and a hundred small ones where the grocery set is there."""
    images = [Image.fromarray(x) for x in sklearn.datasets.load_sample_images().images]
    if GROCERY.is_dir():
        with tarfile.open(GROCERY / "test-00000.tar") as shard:
            names = [name for name in shard.getnames() if name.endswith(".jpg")]
            step = max(1, len(names) // 100)
            images += [
                Image.open(io.BytesIO(shard.extractfile(name).read())).convert("RGB")
                for name in names[::step]
            ]
    return images


def test_copies_of_photographs_are_near_and_others_are_not():
    images = photographs()
    own = [hashed(file(image, "PNG")) for image in images]
    copies = {
        "quality 30": lambda x: file(x, quality=30),
        "half": lambda x: file(x.resize((x.width // 2, x.height // 2)), quality=90),
        "quarter": lambda x: file(x.resize((x.width // 4, x.height // 4)), quality=60),
        "webp": lambda x: file(x, "WEBP", quality=50),
        "cut": lambda x: file(cropped(x, 0.01), quality=90),
    }
    for name, copy in copies.items():
        near = [bits(one, hashed(copy(image))) <= BITS for one, image in zip(own, images)]
        assert np.mean(near) >= 0.95, name
    apart = [bits(one, other) for i, one in enumerate(own) for other in own[:i]]
    assert min(apart) > BITS + 3


def joined(hashes, vectors):
    found = groups(np.array(hashes, np.int64), lambda places: vectors[places])
    return sorted(sorted(group.tolist()) for group in found)


def test_both_signs_have_to_agree():
    near, below = unit([[1, 0], [COSINE, 0.2]]), unit([[1, 0], [COSINE, 0.3]])
    assert near[0] @ near[1] > COSINE > below[0] @ below[1]
    for hashes in ([5, 5], [0, 2**BITS - 1]):
        assert joined(hashes, near) == [[0, 1]]
        assert joined(hashes, below) == []
    assert joined([0, 2 ** (BITS + 1) - 1], near) == []
    assert joined([], near) == []


def test_a_chain_is_one_group():
    vectors = unit([[1, 0], [1, 0.2], [1, 0.4], [0, 1]])
    assert vectors[0] @ vectors[2] < COSINE
    assert joined([0, 1, 2, 3], vectors) == [[0, 1, 2]]
    assert joined([0, 2**BITS - 1, 4**BITS - 1, 1], vectors[[0, 0, 0, 3]]) == [[0, 1, 2]]


def test_a_hundred_thousand_take_seconds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(-(2**63), 2**63 - 1, 100_000)
    vectors = unit(rng.standard_normal([100_000, 8]))
    hashes[:3000] = hashes[3000:6000] ^ 0b101  # copies
    vectors[:3000] = vectors[3000:6000]
    hashes[6000:8000] = 0  # blank pages, all alike
    vectors[6000:8000] = vectors[6000]
    hashes[8000:8300] = 0  # and some that have something on them
    start = time.process_time()
    found = groups(hashes, lambda places: vectors[places])
    assert time.process_time() - start < 30
    sizes = sorted(map(len, found))
    assert sizes[-1] >= 2000 and sizes.count(2) >= 3000 and len(found) <= 3000 + 50
