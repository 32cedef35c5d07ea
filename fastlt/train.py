"""Trains a classifier: `deepspeed fastlt/train.py --config RECIPE [--resume] [key=value ...]`."""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is first on the path, where our modules would shadow others
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="RECIPE", help="YAML recipe, see configs/")
    parser.add_argument("--resume", action="store_true", help="continue the run at its newest checkpoint")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the launcher passes it
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example optimizer.epochs=3")
    arguments = parser.parse_intermixed_args()

    from fastlt.distributed import exit_with_one_sentence
    from fastlt.recipe import load_recipe
    from fastlt.trainer import Trainer

    with exit_with_one_sentence():
        Trainer(load_recipe(arguments.config, arguments.overrides), resume=arguments.resume).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
