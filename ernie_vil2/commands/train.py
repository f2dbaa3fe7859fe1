"""Train what a configuration describes: `python tools/train.py -c configs/base.yaml`."""

from pathlib import Path

from ernie_vil2 import cli, runtime


def main(argv=None) -> int:
    parser = cli.parser("Train a model on multi-view image-text pairs.")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="auto|FOLDER",
        help="auto (also when left out): go on from the newest checkpoint in Global.output_dir, "
        "or start; or a folder checkpoints/step_*",
    )
    start.add_argument(
        "--doctor",
        action="store_true",
        help="instead of training, check what a long run relies on, and measure what it will take",
    )
    args = parser.parse_args(argv)
    from ernie_vil2.config.load import load_config
    from ernie_vil2.training import launcher

    launcher.watch()
    config = load_config(args.config, args.override)  # mistakes show before paddle is loaded
    settings = runtime.prepare()

    from ernie_vil2 import distributed
    from ernie_vil2.checkpoints.writer import Unsaved
    from ernie_vil2.training import run_lock
    from ernie_vil2.training.faults import Diverged
    from ernie_vil2.training.runlog import log, start_logging
    from ernie_vil2.training.signals import Interrupted
    from ernie_vil2.training.trainer import Trainer

    shared = config.Distributed
    distributed.init(
        config.Global.device,
        distributed.strategy(shared.sharding, shared.dp_degree, shared.sharding_degree),
    )
    if args.doctor:
        from ernie_vil2.doctor.examine import examine

        return examine(config)
    output = Path(config.Global.output_dir)
    with run_lock.held(output) as lock:
        start_logging(output, distributed.is_main())
        for line in settings:
            log.info(line)
        try:
            Trainer(config, resume=args.resume, on_stop=lock.leaving).train()
        except (Interrupted, Diverged, Unsaved) as stop:
            log.warning(stop)
            return 1
    return 0
