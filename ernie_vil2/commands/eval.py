"""Evaluate retrieval: `python tools/eval.py -c configs/demo.yaml -w output/demo`."""

from pathlib import Path

from ernie_vil2 import cli, runtime


def main(argv=None) -> int:
    parser = cli.parser("Evaluate image-text retrieval on the set of DataLoader.Eval.")
    parser.add_argument(
        "-w",
        "--weights",
        required=True,
        help="a checkpoint or run folder, PaddleNLP ErnieViLModel folder, or official .pdparams",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="for report.json and page.html (Global.output_dir/eval)"
    )
    parser.add_argument("--examples", type=int, default=12, help="queries of each kind on the page")
    args = parser.parse_args(argv)
    from ernie_vil2.config import load_config

    config = load_config(args.config, args.override)
    if config.DataLoader.Eval is None:
        raise cli.UserError(f"{args.config} has no DataLoader.Eval: name the set to evaluate on")
    runtime.prepare()

    from ernie_vil2 import distributed
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.evaluation.embed import Evaluator
    from ernie_vil2.evaluation.report import format_table, write_json, write_page
    from ernie_vil2.models.convert import check_vocabulary, load, own_vocabulary

    distributed.init(config.Global.device)
    model = load(args.weights, config)
    tokenizer = Tokenizer(**{**config.Tokenizer, **own_vocabulary(args.weights)})
    check_vocabulary(model, tokenizer, trained=True)
    evaluator = Evaluator(config, tokenizer)
    embeddings = evaluator.embed(model)
    if not distributed.is_main():
        return 0
    report = evaluator.score(embeddings)
    out = Path(args.out or Path(config.Global.output_dir) / "eval")
    dataset = config.DataLoader.Eval.dataset
    files = ", ".join(f"{value}" for key, value in dataset.items() if key != "name")
    title = f"Retrieval with {args.weights} on {files}"
    write_json(out / "report.json", {"weights": args.weights, **report})
    write_page(out / "page.html", title, report, evaluator.examples(embeddings, args.examples))
    print(format_table(report))
    print(f"report: {out / 'report.json'}\npage:   {out / 'page.html'}")
    return 0
