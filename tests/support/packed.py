"""One small set in each format that holds pictures in its own files.

Row i has the caption "text i"; what a writer gives are the options of its reader.
"""

import itertools
import pickle

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.rows import b64, write
from tests.support.tars import write_tar


def tsv(folder, images: list) -> dict:
    rows = [b"text %d\tid\t%s" % (i, b64(image)) for i, image in enumerate(images)]
    return {"path": write(folder / "a.tsv", *rows)}


def parquet(folder, images: list) -> dict:
    columns = {"caption": [f"text {i}" for i in range(len(images))], "jpg": images}
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=3)
    return {"path": str(folder / "a.parquet")}


def arrow(folder, images: list) -> dict:
    table = pa.table({"caption": [f"text {i}" for i in range(len(images))], "image": images})
    path = str(folder / "a.arrow")
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, 3)
    return {"path": path}


def lmdb_(folder, images: list) -> dict:
    pairs = {b"%d" % i: pickle.dumps((i + 100, i, f"text {i}")) for i in range(len(images))}
    rows = {b"%d" % (i + 100): b64(image) for i, image in enumerate(images)}
    for name, count, items in (("pairs", b"num_samples", pairs), ("imgs", b"num_images", rows)):
        with lmdb.open(str(folder / name)) as database, database.begin(write=True) as transaction:
            for key, value in {**items, count: b"%d" % len(items)}.items():
                transaction.put(key, value)
    return {"path": str(folder)}


def shards(folder, images: list) -> dict:
    records = [[(f"{i}.png", x), (f"{i}.txt", b"text %d" % i)] for i, x in enumerate(images)]
    for shard in range(0, len(records), 7):
        write_tar(folder / f"{shard:04}.tar", *itertools.chain(*records[shard : shard + 7]))
    return {"path": str(folder / "*.tar")}


WRITERS = {"tsv": tsv, "shards": shards, "parquet": parquet, "arrow": arrow, "lmdb": lmdb_}
