"""Convert weights between the official code's, PaddleNLP's and our own format."""

import argparse

from ernie_vil2 import runtime


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="PATH",
        help="official .pdparams, or a folder: PaddleNLP's ErnieViLModel or a checkpoint of ours",
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="YAML with Arch; needed for an official file"
    )
    parser.add_argument("--to", required=True, choices=("official", "paddlenlp", "ernie_vil2"))
    parser.add_argument(
        "--out", required=True, metavar="PATH", help="a folder; for official the .pdparams file"
    )
    parser.add_argument(
        "--partial", action="store_true", help="convert although keys are missing or do not fit"
    )
    args = parser.parse_args(argv)

    runtime.prepare()
    from ernie_vil2.models import convert

    model = convert.load(args.source, args.config, args.partial)
    save = {
        "official": convert.save_official,
        "paddlenlp": convert.save_paddlenlp,
        "ernie_vil2": convert.save_checkpoint,
    }
    save[args.to](model, args.out)
    print(f"wrote {args.out}")
