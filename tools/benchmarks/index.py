"""`bench.py index`: how much of the bare model's rate an index of a cold folder of JPEGs has."""

from __future__ import annotations

import argparse
from pathlib import Path

from ernie_vil2 import cli
from ernie_vil2.errors import UserError

ABOUT = """Pictures/s of the bare image tower over pixels that are ready, and of an index of JPEGs
that the disk has to read: walk, hash, decode, dHash, embed, keep. In turns, in one process."""
QUICK = {"pictures": 24, "picture": [64, 48], "rounds": 1, "model": "tiny"}
# side, width, depth and heads of the image tower
MODELS = {"tiny": (32, 64, 2, 1), "small": (224, 384, 12, 6), "base": (224, 768, 12, 12)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark."""
    parser.add_argument(
        "--artefact", type=Path, metavar="DIR", help="an exported model (a random one, --model)"
    )
    parser.add_argument(
        "--model", choices=MODELS, default="base", help="how large a random one (%(default)s)"
    )
    parser.add_argument(
        "--pictures", type=cli.positive, default=500, help="of the folder (%(default)s)"
    )
    parser.add_argument(
        "--picture",
        type=cli.positive,
        nargs=2,
        default=[640, 480],
        metavar=("WIDTH", "HEIGHT"),
        help="pixels of each (640 480)",
    )
    parser.add_argument("--rounds", type=cli.positive, default=3, help="of turns (%(default)s)")
    parser.add_argument("--threads", type=cli.positive, help="of the model (all usable cores)")
    parser.add_argument("--workers", type=cli.positive, help="that decode (one for each core)")
    parser.add_argument("--folder", type=Path, help="for the data (the system's for such)")


def check(options) -> None:
    """Raise UserError for what is not there."""
    if options.artefact and not options.artefact.is_dir():
        raise UserError(f"--artefact {options.artefact}: there is no such folder")


def run(report, options) -> None:
    """One table: a row for the bare model, one for the index, one for what decoding alone does."""
    from benchmarks.common import run_apart

    given = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    names = ("artefact", "model", "pictures", "picture", "rounds", "threads", "workers", "folder")
    found = run_apart("benchmarks.index", "measure", **{name: given[name] for name in names})
    report.table(
        "index",
        "Indexing a cold folder of JPEGs",
        {
            "name": ("", str),
            "rate": ("pictures/s, median", "{:.1f}".format),
            "least": ("least", "{:.1f}".format),
            "most": ("most", "{:.1f}".format),
            "share": ("of the bare model's", "{:.1%}".format),
            "cpu": ("CPU of all threads, ms a picture", "{:.1f}".format),
        },
        found["rows"],
        f"{options.pictures} JPEGs of {options.picture[0]} x {options.picture[1]} px, "
        f"{found['kilobytes']:.0f} kB each, in {options.rounds} rounds of turns; "
        f"{found['model']}; batches of {found['batch']}.",
    )


def measure(
    artefact: str | None,
    model: str,
    pictures: int,
    picture: list[int],
    rounds: int,
    threads: int | None,
    workers: int | None,
    folder: str | None,
) -> dict:
    """The rows of the table."""
    import tempfile

    from ernie_vil2 import runtime
    from ernie_vil2.artefact.folder import Artefact
    from ernie_vil2.data.decode import decode_image
    from ernie_vil2.search.batches import Embedder
    from ernie_vil2.serving.tower import Tower, TowerOptions

    with tempfile.TemporaryDirectory(dir=folder) as place:
        root = Path(place)
        exported = Artefact.open(artefact) if artefact else random_model(root / "model", model)
        tower = Tower(exported, "image", TowerOptions(threads=threads, batch_size=64))
        files = write_pictures(root / "pictures", pictures, picture)
        ready = [exported.transform()(file.read_bytes()) for file in files]
        embedder = Embedder(lambda: tower, 64)
        for _ in range(4):  # it finds the size of its batches
            embedder(ready[: embedder.size])
        batch = embedder.size
        workers = workers or runtime.usable_cores()
        indexed(root, write_pictures(root / "few", 8, picture), exported, embedder, workers)

        def bare() -> None:
            for start in range(0, len(ready), batch):
                embedder(ready[start : start + batch])

        def decoding() -> None:
            for file in files:
                exported.transform()(decode_image(file.read_bytes()))

        turns: dict = {"the bare image tower, pixels ready": bare}
        turns["an index, from cold files"] = lambda: indexed(
            root, files, exported, embedder, workers
        )
        turns["reading and decoding alone, one thread"] = decoding
        rows = take_turns(turns, files, rounds)
        size = sum(file.stat().st_size for file in files) / len(files)
        said = f"the model of {artefact}" if artefact else f"a random {model} model"
        return {"rows": rows, "kilobytes": size / 1000, "model": said, "batch": batch}


def take_turns(turns: dict, files: list[Path], rounds: int) -> list[dict]:
    """A row of each, compared with the first; `files` are cold for each turn."""
    import statistics
    import time

    times: dict[str, list[float]] = {name: [] for name in turns}
    cpu = dict.fromkeys(turns, 0.0)
    for _ in range(rounds):
        for name, work in turns.items():
            make_cold(files)
            start, start_of_cpu = time.perf_counter(), time.process_time()
            work()
            times[name].append(time.perf_counter() - start)
            cpu[name] += time.process_time() - start_of_cpu
    medians = {name: statistics.median(of) for name, of in times.items()}
    first = next(iter(medians.values()))
    return [
        {
            "name": name,
            "rate": len(files) / medians[name],
            "least": len(files) / max(of),
            "most": len(files) / min(of),
            "share": first / medians[name],
            "cpu": 1000 * cpu[name] / rounds / len(files),
        }
        for name, of in times.items()
    ]


def indexed(root: Path, files: list[Path], exported, embedder, workers: int) -> None:
    """What the command does, but for its start: an index of all of them."""
    import contextlib
    import shutil

    from ernie_vil2.search.bad import BadPictures
    from ernie_vil2.search.folders import folder_options, make_folders
    from ernie_vil2.search.identity import model_identity
    from ernie_vil2.search.indexer import Indexer
    from ernie_vil2.search.open import open_collection

    db, identity = root / "pictures.db", model_identity(exported)
    wanted = make_folders({str(files[0].parent.resolve()): folder_options([], False, None)}, False)
    with contextlib.closing(
        open_collection(str(db), identity, dim=exported.embed_dim, write=True)
    ) as collection:
        bad = BadPictures(db / "bad.jsonl")
        summary = Indexer(collection, wanted, exported.transform(), embedder, bad, workers).update()
        collection.optimize()
        assert summary.new == len(files), summary
    shutil.rmtree(db)


def random_model(folder: Path, size: str):
    """An exported model with random weights."""
    import paddle

    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.export.programs import export
    from ernie_vil2.models.dual_encoder import build_model

    side, width, depth, heads = MODELS[size]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]))
    image = {"img_size": side, "patch_size": 16, "embed_dim": width, "depth": depth}
    text = {"vocab_size": 8, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    paddle.seed(0)
    model = build_model(
        {
            "embed_dim": width,
            "Image": {"name": "CLIP_vit_base_patch16_224", "num_heads": heads, **image},
            "Text": {"name": "ernie-3.0-base-zh", **text},
        }
    )
    model.eval()
    return export(model, Tokenizer(folder / "vocab.txt"), folder / "exported")


def write_pictures(folder: Path, count: int, picture: list[int]) -> list[Path]:
    """So many JPEGs, no two of the same bytes: each has its number in a comment."""
    from benchmarks.data_peers import photographs

    some = photographs(*picture, (90,))
    folder.mkdir()
    files = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        data, comment = some[number % len(some)], number.to_bytes(8, "big")
        file.write_bytes(data[:2] + b"\xff\xfe\x00\x0a" + comment + data[2:])
    return files


def make_cold(files: list[Path]) -> None:
    """Let the kernel forget what it has read of the files."""
    import os

    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
