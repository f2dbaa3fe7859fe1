"""`bench.py search`: what the stores of pictures take, and how much of the exact hits they find."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from ernie_vil2 import cli

ABOUT = """A collection of synthetic vectors, in clusters, in LanceDB (and in Milvus, with
--milvus): time to build without embedding, disk, memory, time of a query with and without filters,
and recall@10 against an exact search by NumPy."""
QUICK = {"size": 3000, "dim": 32, "queries": 20, "batch": 500}
FILTERS = {"none": 1.0, "folder": 0.05, "tag": 0.1, "after": 0.5}  # and what share passes
_PIECE = 20_000  # vectors drawn at a time
_K = 10
_LONG = 100_000  # hits of a ranking
_ROUNDING = 1e-6  # of a cosine in float32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark, and a server."""
    parser.add_argument("--size", type=cli.positive, default=100_000, help="pictures (100000)")
    parser.add_argument("--dim", type=cli.positive, default=768, help="of a vector (768)")
    parser.add_argument("--queries", type=cli.positive, default=200, help="of each kind (200)")
    parser.add_argument("--batch", type=cli.positive, default=1000, help="of an add (1000)")
    parser.add_argument(
        "--milvus", metavar="URI", help="http://host:19530/name of a collection that is not there"
    )
    parser.add_argument("--folder", type=Path, help="for the data (the system's for such)")


def check(options) -> None:
    """All sizes make sense."""


def run(report, options) -> None:
    """One table of what building takes, one of queries."""
    from benchmarks.common import mebibytes, run_apart, seconds

    sizes = {"size": options.size, "dim": options.dim}
    queries = {**sizes, "queries": options.queries}
    exact = run_apart("benchmarks.search", "by_numpy", **queries)
    built, asked = [], exact["rows"]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        stores = {"LanceDB": str(Path(folder) / "pictures.db")}
        if options.milvus:
            stores["Milvus"] = options.milvus
        for store, uri in stores.items():
            what = {"store": store, "uri": uri}
            built.append(
                run_apart("benchmarks.search", "build", **what, **sizes, batch=options.batch)
            )
            asked += run_apart(
                "benchmarks.search", "ask", **what, **queries, bounds=exact["bounds"]
            )
    title = f"{options.size:,} pictures, {options.dim} numbers each"
    report.table(
        "build",
        f"To build a collection of {title}",
        {
            "store": ("store", str),
            "add": ("add", seconds),
            "optimize": ("optimize", seconds),
            "index": ("index", str),
            "recall": ("recall@10 that it measured", "{:.3f}".format),
            "disk": ("disk", mebibytes),
            "memory": ("memory", mebibytes),
        },
        built,
        f"Without embedding; {options.batch} pictures an add. Memory: the most that was resident.",
    )
    milliseconds = "{:.1f}".format
    report.table(
        "queries",
        f"To ask a collection of {title}",
        {
            "store": ("store", str),
            "where": ("filter", str),
            "passing": ("passing", "{:,}".format),
            "p50": ("p50, ms", milliseconds),
            "p99": ("p99, ms", milliseconds),
            "cpu": ("CPU, ms", milliseconds),
            "recall": ("recall@10", "{:.4f}".format),
            "first": ("first query", seconds),
            "long": (f"ranking of {min(_LONG, options.size):,}", seconds),
            "memory": ("memory", mebibytes),
        },
        asked,
        f"{options.queries} queries a filter, one at a time, after the first: half are pictures "
        "that are there, half points between two. CPU: of all threads, a query. Memory: resident, "
        "with the process's libraries.",
    )


# -- in processes of their own ---------------------------------------------------------------------


def pieces(size: int, dim: int):
    """The data, drawn piece by piece: (numbers of pictures, float32 vectors [N, dim])."""
    import numpy as np

    centres = np.random.default_rng(0).standard_normal([max(10, size // 500), dim], "float32")
    for start in range(0, size, _PIECE):
        rng = np.random.default_rng([1, start])
        count = min(_PIECE, size - start)
        vectors = centres[rng.integers(0, len(centres), count)]
        vectors += rng.standard_normal([count, dim], "float32")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield np.arange(start, start + count), vectors


def passing(numbers, where: str):
    """bool: which pictures pass, by their numbers; they are spread over the clusters."""
    if where == "folder":
        return numbers % 20 == 3
    if where == "tag":
        return numbers % 10 == 5
    return numbers % 2 == 1 if where == "after" else numbers >= 0


def queries_of(size: int, dim: int, queries: int):
    """float32 [Q, dim]."""
    import numpy as np

    _, vectors = next(pieces(size, dim))
    rng = np.random.default_rng(2)
    one, other = (vectors[rng.integers(0, len(vectors), queries)] for _ in range(2))
    found = np.where((np.arange(queries) % 2 == 0)[:, None], one, one + other)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def by_numpy(size: int, dim: int, queries: int) -> dict:
    """Rows of the table, and the cosine of each query's tenth hit, in float64."""
    import numpy as np
    from benchmarks.common import status

    matrix = np.empty([size, dim], "float32")
    for numbers, vectors in pieces(size, dim):
        matrix[numbers] = vectors
    asked, numbers = queries_of(size, dim, queries), np.arange(size)
    bounds, rows = {}, []
    for where in FILTERS:
        pass_them = np.flatnonzero(passing(numbers, where))
        times, bounds[where], cpu = [], [], time.process_time()
        for query in asked:
            start = time.perf_counter()
            scores = (matrix @ query)[pass_them]
            best = pass_them[np.argpartition(-scores, 2 * _K)[: 2 * _K]]
            times.append(time.perf_counter() - start)
            exact = np.sort(matrix[best].astype("float64") @ query.astype("float64"))
            bounds[where].append(float(exact[-_K]))
        cpu = time.process_time() - cpu
        row = {"store": "NumPy", "where": where, "passing": len(pass_them), "recall": 1.0}
        rows.append({**row, **_times(times, cpu), "memory": status("VmRSS")})
    return {"rows": rows, "bounds": bounds}


def build(store: str, uri: str, size: int, dim: int, batch: int) -> dict:
    """A row of the table."""
    from benchmarks.common import status

    from ernie_vil2.search.collection import Picture, picture_id
    from ernie_vil2.search.open import open_collection

    def picture(number: int) -> Picture:
        path = f"/pictures/{number % 20}/{number}.jpg"
        tags = ("word",) if passing(number, "tag") else ()
        taken = int(passing(number, "after"))
        return Picture(picture_id(path), path, "0" * 64, 10**6, 0, taken, 640, 480, number, tags)

    collection = open_collection(uri, {"weights": "synthetic"}, dim=dim, write=True)
    assert collection.count() == 0, f"{uri} holds pictures: name a collection that is not there"
    add = 0.0
    for numbers, vectors in pieces(size, dim):
        pictures = [picture(int(x)) for x in numbers]
        for start in range(0, len(pictures), batch):
            begin = time.perf_counter()
            collection.add(pictures[start : start + batch], vectors[start : start + batch])
            add += time.perf_counter() - begin
    begin = time.perf_counter()
    found = collection.optimize()
    row = {"store": store, "add": add, "optimize": time.perf_counter() - begin}
    collection.close()
    index = f"{found['index']}, {found['cells']} cells read" if found["index"] else "none, exact"
    row.update(index=index, recall=found["recall"], memory=status("VmHWM"))
    return {**row, "disk": None if "://" in uri else _disk(Path(uri))}


def ask(store: str, uri: str, size: int, dim: int, queries: int, bounds: dict) -> list:
    """Rows of the table."""
    from benchmarks.common import status

    from ernie_vil2.search.collection import EVERYTHING, Filter
    from ernie_vil2.search.open import open_collection

    collection, rows = open_collection(uri), []
    kinds = {
        "none": EVERYTHING,
        "folder": Filter(folder="/pictures/3"),
        "tag": Filter(tags=("word",)),
        "after": Filter(after=1),
    }
    asked = queries_of(size, dim, queries)
    for where, condition in kinds.items():
        row = {"store": store, "where": where, "passing": collection.count(condition)}
        start = time.perf_counter()
        collection.search(asked[0], _K, condition)
        row["first"] = time.perf_counter() - start
        times, right, cpu = [], 0, time.process_time()
        for query, bound in zip(asked, bounds[where]):
            start = time.perf_counter()
            hits = collection.search(query, _K, condition)
            times.append(time.perf_counter() - start)
            right += sum(hit.cosine >= bound - _ROUNDING for hit in hits)
        row.update(_times(times, time.process_time() - cpu), recall=right / (_K * queries))
        start = time.perf_counter()
        collection.ranking(asked[1], _LONG, condition)
        row["long"] = time.perf_counter() - start
        rows.append({**row, "memory": status("VmRSS")})
    collection.close()
    return rows


def _times(times: list, cpu: float) -> dict:
    """Of queries that took so many seconds each, and so many of CPU together."""
    import numpy as np

    found = np.percentile(np.array(times[1:] or times) * 1000, [50, 99])
    return {"p50": float(found[0]), "p99": float(found[1]), "cpu": cpu / len(times) * 1000}


def _disk(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(
        os.path.getsize(os.path.join(root, x)) for root, _, names in os.walk(folder) for x in names
    )
