"""`bench.py data`: what a pair's pixels cost, beside other pipelines and stage by stage."""

from __future__ import annotations

import argparse

from ernie_vil2 import cli

ABOUT = """What the two image views of a pair cost on one core: against other pipelines in turns,
stage by stage, and until they lie normalised on the device, by what a worker hands over."""
QUICK = {"size": 32, "batch": 4, "repeats": 1, "picture": [64, 48]}
_QUALITIES = (85, 90, 95)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark."""
    parser.add_argument("--size", type=cli.positive, default=224, help="pixels of a side (224)")
    parser.add_argument("--batch", type=cli.positive, default=32, help="pairs handed over (32)")
    parser.add_argument(
        "--picture",
        type=cli.positive,
        nargs=2,
        default=[500, 375],
        metavar=("WIDTH", "HEIGHT"),
        help="pixels of the JPEGs that are read (500 375)",
    )
    parser.add_argument("--repeats", type=cli.positive, default=7, help="of each timing (7)")


def check(options) -> None:
    """All sizes make sense."""


def run(report, options) -> None:
    """Four tables: pipelines, our stages, evaluation, ways of handing over."""
    import paddle
    from benchmarks import data_peers, data_times

    from ernie_vil2.data import turbo
    from ernie_vil2.data.loader import one_thread

    paddle.set_device("cpu")
    one_thread(0)  # as in a worker
    data_peers.SIZE = options.size
    pictures = data_peers.photographs(*options.picture, _QUALITIES)
    note = _note(options, pictures, data_peers.are_photographs())
    columns = {"name": ("", str), "median": ("median", _ms), "mean": ("mean", _ms)}
    report.table(
        "peers",
        "Two views of a picture, pipeline by pipeline",
        {**columns, "ratio": ("the official one takes, times", "{:.1f}".format)},
        data_times.peers(options, pictures),
        f"{note} In each they take turns at all pictures. Ours decodes by {turbo.name()}.",
    )
    report.table(
        "stages",
        "Where the time goes",
        {**columns, "share": ("share", "{:.0%}".format)},
        data_times.stages(options, pictures),
        note,
    )
    report.table(
        "evaluation",
        "A picture of an evaluation: decode, resize, crop",
        columns,
        data_times.evaluation(options, pictures),
    )
    report.table(
        "pixels",
        "Pixels of a pair",
        {
            "way": ("handed over", str),
            "bytes": ("through shared memory and to the device", lambda x: f"{x / 1000:,.0f} kB"),
            "decode": ("worker: decode, augment", _ms),
            "hand_over": ("worker: normalise, stack, hand over", _ms),
            "take": ("trainer: copy, normalise", _ms),
        },
        data_times.handed_over(options, pictures),
        f"{note} Least of the rounds, each over {options.batch} pairs. The device is the CPU.",
    )


def _ms(value: float) -> str:
    return f"{value:.2f} ms"


def _note(options, pictures: list[bytes], are_photographs: bool) -> str:
    source = "parts of the photographs in scikit-image's wheel"
    if not are_photographs:
        source = "drawn noise, as scikit-image is not installed"
    kilobytes = sum(map(len, pictures)) / len(pictures) / 1000
    return (
        f"Two views of {options.size} px of each of {len(pictures)} JPEGs of "
        f"{options.picture[0]} x {options.picture[1]} px, {source}, at qualities "
        f"{', '.join(map(str, _QUALITIES))}; {kilobytes:.0f} kB on average. CPU time of one "
        f"thread, {options.repeats} rounds."
    )
