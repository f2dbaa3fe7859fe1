#!/usr/bin/env python
"""Tables of what is exact, what it costs, how fast it is: `python tools/bench.py loss`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli, runtime
from ernie_vil2.errors import UserError

LOSS = """The loss alone, on one process with a simulated gather: errors against float64, memory and
time of the plain and the chunked path and of what other programs compute."""
SCALE = """The real towers and trainer: memory and time of a step by local batch, and steps on 1, 2
and 4 processes over gloo against one process and against float64."""
INFERENCE = """Images/s, texts/s and latency of PaddleNLP's ErnieViLModel, of our export in each
precision and of ONNX Runtime, in turns; the start of a process; the HTTP server."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__)
    commands = result.add_subparsers(dest="command", required=True, metavar="loss|scale|inference")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers there")
    common.add_argument("--quick", action="store_true", help="tiny sizes: a try of the command")

    def command(name: str, about: str):
        added = commands.add_parser(name, description=about, parents=[common], help=about)
        return added, lambda *flags, **named: added.add_argument(*flags, **named)

    loss, add = command("loss", LOSS)
    add("--rows", type=cli.positive, default=1024, metavar="B", help="local rows (1024)")
    add(
        "--sizes",
        type=cli.positive,
        nargs="+",
        default=[4096, 8192, 16384, 32768],
        metavar="N",
        help="global batches, ascending (4096 8192 16384 32768)",
    )
    add("--dim", type=cli.positive, default=768, help="numbers of an embedding (768)")
    add(
        "--chunks",
        type=cli.positive,
        nargs="+",
        default=[1024, 4096],
        help="columns at a time (1024 4096)",
    )
    add("--ranks", type=cli.positive, default=8, help="simulated ranks of the gradients (8)")
    add("--small-global", type=cli.positive, default=1024, help="records of the gradients (1024)")
    add("--error-rows", type=cli.positive, default=128, help="rows compared with float64 (128)")
    add("--repeats", type=cli.positive, default=3, help="of each timing (3)")
    add("--memory-limit", type=float, default=8.0, help="GiB; what needs more is not run (8)")
    add("--time-limit", type=float, default=30.0, help="seconds; a longer step is not run (30)")
    loss.set_defaults(
        quick_sizes={
            "rows": 32,
            "sizes": [128, 256],
            "dim": 32,
            "chunks": [32, 100],
            "ranks": 4,
            "small_global": 64,
            "error_rows": 32,
            "repeats": 1,
        }
    )

    scale, add = command("scale", SCALE)
    add(
        "--batches",
        type=cli.positive,
        nargs="+",
        default=[8, 16, 32, 64, 128],
        metavar="B",
        help="local batches, ascending (8 16 32 64 128)",
    )
    add("--micro", type=cli.positive, default=8, help="micro_batch_size (8)")
    add("--image", type=cli.positive, default=96, help="side of the images in pixels (96)")
    add("--width", type=cli.positive, default=192, help="of both towers (192)")
    add("--depth", type=cli.positive, default=4, help="layers of each tower (4)")
    add("--repeats", type=cli.positive, default=3, help="of each timing (3)")
    add(
        "--processes",
        type=cli.positive,
        nargs="+",
        default=[1, 2, 4],
        metavar="W",
        help="numbers of processes; 1 is the reference (1 2 4)",
    )
    scale.set_defaults(
        quick_sizes={
            "batches": [4, 6],
            "micro": 4,
            "image": 32,
            "width": 32,
            "depth": 1,
            "repeats": 1,
            "processes": [1, 2],
        }
    )

    inference, add = command("inference", INFERENCE)
    add("-w", "--weights", type=Path, help="what tools/export.py takes (a base model, random)")
    add("-c", "--config", type=Path, help="of official weights: a configuration with their Arch")
    add(
        "--batches",
        type=cli.positive,
        nargs="+",
        default=[1, 8, 32, 64],
        metavar="B",
        help="images or texts of a run (1 8 32 64)",
    )
    add("--server-batches", type=cli.positive, nargs="+", default=[8, 32], help="(8 32)")
    add("--rounds", type=cli.positive, default=3, help="in which all take turns (3)")
    add("--seconds", type=float, default=1.0, help="of runs of one kind in a round (1)")
    inference.set_defaults(
        quick_sizes={"batches": [1, 3], "server_batches": [4], "rounds": 1, "seconds": 0.02}
    )
    return result


def main(argv=None) -> int:
    options = parser().parse_args(argv)
    if options.quick:
        vars(options).update(options.quick_sizes)
    del options.quick_sizes
    if options.json and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: there is no such folder, make it first")
    {"loss": check_loss, "scale": check_scale, "inference": check_inference}[options.command](
        options
    )
    if not sys.platform.startswith("linux"):
        raise UserError("memory is read from /proc: run it on Linux")
    runtime.prepare()

    from benchmarks.common import Report

    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    report = Report(settings)
    if options.command == "loss":
        from benchmarks import loss as bench
    elif options.command == "scale":
        from benchmarks import scale as bench
    else:
        from benchmarks import inference as bench
    bench.run(report, options)
    if options.json:
        report.write(options.json)
    return 0


def check_loss(options) -> None:
    if sorted(set(options.sizes)) != options.sizes or options.sizes[0] < options.rows:
        raise UserError(
            f"--sizes {options.sizes}: expected ascending numbers from --rows, {options.rows}"
        )
    if options.sizes[0] > 8192:
        raise UserError(
            f"--sizes begins with {options.sizes[0]}: begin with 8192 or less, from which is "
            "estimated what does not fit into memory"
        )
    if options.small_global % options.ranks:
        raise UserError(
            f"--small-global {options.small_global} records cannot be shared out among "
            f"--ranks {options.ranks}: expected a multiple"
        )


def check_scale(options) -> None:
    if options.processes[0] != 1 or not {*options.processes} <= {1, 2, 4, 8}:
        raise UserError(
            f"--processes {options.processes}: expected 1, which the others are compared with, "
            "then some of 2, 4 and 8"
        )


def check_inference(options) -> None:
    if not 0 < options.seconds < 600:
        raise UserError(f"--seconds {options.seconds}: expected a number above 0 and below 600")
    for name in ("weights", "config"):
        path = getattr(options, name)
        if path and not path.exists():
            raise UserError(f"--{name} {path}: there is no such file or folder")


if __name__ == "__main__":
    sys.exit(cli.run(main))
