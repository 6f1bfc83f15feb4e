"""``wishbone ab``: compare systems that differ in one part, and write a report."""

from __future__ import annotations

import sys
from pathlib import Path

from wishbone.core.cli.arguments import Parser, add_engine
from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.ab import TRAININGS, run
from wishbone.core.evaluate.experiment.plan import read_plan


def main(argv: list[str] | None = None) -> int:
    """Run ``wishbone ab``; returns the exit code."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    if options.page:
        from wishbone.core.evaluate.report.markdown import write_page

        for path in write_page(options.page, options.out):
            print(path)
        return 0
    if not options.name:
        raise UsageError("No A/B is named.", "wishbone ab", "Try 'wishbone ab quickstart'.")
    out = options.out or Path(f"ab-{Path(options.name).stem}")
    plan = read_plan(
        options.name,
        options.set,
        prompts=options.prompts,
        seeds=options.seeds,
        quick=options.quick,
        trained=out / TRAININGS,
        engine=options.engine,
    )
    if options.train:
        from wishbone.core.evaluate.experiment.sweep import train

        return 0 if train(plan.trainings, options.only) else 1
    words = ["wishbone", "ab", *(sys.argv[2:] if argv is None else argv)]
    run(plan, out, allow=options.allow, threads=options.threads, command=words)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="wishbone ab", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="'quickstart', or a YAML file with 'arms:'")
    parser.add_argument("set", nargs="*", metavar="key=value", help="replaces a key of that file")
    parser.add_argument("--out", type=Path, help="folder of the result (default: ab-NAME)")
    parser.add_argument("--prompts", type=int, help="only the first so many sentences")
    parser.add_argument("--seeds", type=int, help="how often each sentence is spoken")
    add_engine(parser, default=None)
    parser.add_argument("--quick", action="store_true", help="a smoke test without a verdict")
    parser.add_argument("--allow", action="store_true", help="go on although more differs")
    parser.add_argument("--train", action="store_true", help="train the arms first, and stop then")
    parser.add_argument("--only", default="", help="with --train: names to train, like 'rwkv7-*'")
    parser.add_argument(
        "--page", type=Path, metavar="JSON", help="only write tables and plots of a result"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for judging (2)")
    return parser
