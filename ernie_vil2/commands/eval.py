"""Evaluate retrieval: `python tools/eval.py -c configs/demo.yaml -w output/demo`."""

from pathlib import Path

from ernie_vil2 import cli, runtime


def main(argv=None) -> int:
    parser = cli.parser("Evaluate image-text retrieval on the set of DataLoader.Eval.")
    cli.add_weights(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="for report.json and page.html (Global.output_dir/eval)"
    )
    parser.add_argument("--examples", type=int, default=12, help="queries of each kind on the page")
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="write the images found for each text in Chinese-CLIP's JSONL, and the texts of each "
        "image beside it, for a.jsonl in a.tr.jsonl",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave rows out that cannot be read, and name them in bad_records.jsonl of --out",
    )
    args = parser.parse_args(argv)
    if args.examples < 0:
        raise cli.UserError(f"--examples is {args.examples}: expected 0 or more queries")
    from ernie_vil2.config.load import load_config

    config = load_config(args.config, args.override)
    if config.DataLoader.Eval is None:
        raise cli.UserError(f"{args.config} has no DataLoader.Eval: name the set to evaluate on")
    runtime.prepare()

    from ernie_vil2 import distributed
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.evaluation.evaluator import Evaluator
    from ernie_vil2.evaluation.examples import write_predictions
    from ernie_vil2.evaluation.page import write_page
    from ernie_vil2.evaluation.report import format_table, write_json
    from ernie_vil2.weights.load import check_vocabulary, load, own_vocabulary

    distributed.init(config.Global.device)
    model = load(args.weights, config)
    tokenizer = Tokenizer(**{**config.Tokenizer, **own_vocabulary(args.weights)})
    check_vocabulary(model, tokenizer, trained=True)
    out = Path(args.out or Path(config.Global.output_dir) / "eval")
    evaluator = Evaluator(config, tokenizer, out / "bad_records.jsonl", args.skip_bad)
    embeddings = evaluator.embed(model)
    if not distributed.is_main():
        return 0
    if args.predictions:
        k, block = max(config.Metric.ks), config.Metric.block
        transposed = write_predictions(Path(args.predictions), embeddings, k, block)
        print(f"predictions: {args.predictions} and {transposed}")
    if args.predictions and not any(embeddings.images_of_text):
        print("no text of the set names its image: there is nothing to score")
        return 0
    report = evaluator.score(embeddings)
    dataset = config.DataLoader.Eval.dataset
    files = ", ".join(f"{value}" for key, value in dataset.items() if key != "name")
    title = f"Retrieval with {args.weights} on {files}"
    write_json(out / "report.json", {"weights": args.weights, **report})
    write_page(out / "page.html", title, report, evaluator.examples(embeddings, args.examples))
    print(format_table(report))
    print(f"report: {out / 'report.json'}\npage:   {out / 'page.html'}")
    if embeddings.bad_records:
        print(f"left out: {evaluator.ledger.path}")
    return 0
