"""``wishbone train CONFIG key=value ...``: begin a run, or go on with the one in its folder.

The same command under ``torchrun --nproc-per-node N -m wishbone train ...`` uses N processes; a
budget of ``batch_positions`` each makes the same batches as one process with N times the budget.
"""

from __future__ import annotations

from wishbone.core.cli.arguments import Parser


def main(argv: list[str]) -> int:
    """Run the command; 0 also when it was told to stop and left a checkpoint."""
    parser = Parser("wishbone train", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a training YAML, or the name of a bundled one")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. steps=500 system.layout.mix=")
    parser.add_argument(
        "--change", action="store_true", help="go on with a run whose recipe differs from this one"
    )
    options = parser.parse_args(argv)
    # after parsing, so that --help and mistakes need no torch
    from wishbone.core.train.run import run

    return run(options.config, options.overrides, options.change)
