"""One rank of a training, as a launcher starts it: `deepspeed fastlt/train.py --config RECIPE [key=value ...]`."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":  # a script's own folder is first on the path, where our modules would shadow others
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tyro.conf import Positional, arg

from fastlt.options import Flag, keys_last, parse


@dataclass(frozen=True)
class TrainRank:
    """Train one rank of a run; launchers start as many as there are devices.

    On one machine, `fastlt train RECIPE` starts the launcher by itself. `fastlt recipe` explains every key of a recipe.
    """

    config: Annotated[str, arg(metavar="RECIPE")]
    """A YAML recipe, or the name of one of ours, such as demo/species."""
    overrides: Annotated[Positional[tuple[str, ...]], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")] = ()
    """Keys of the recipe to set, for example optimizer.epochs=3."""
    resume: Flag = False
    """Go on with the run at its newest checkpoint."""

    def run(self) -> None:
        """Trains; ends the process where it cannot."""
        from fastlt.stopping import signal_when_parent_ends
        from fastlt.training.failures import exit_with_one_sentence

        if "LOCAL_RANK" in os.environ:  # a launcher that is killed leaves no rank behind: they save and end
            signal_when_parent_ends(signal.SIGTERM)
        with exit_with_one_sentence():
            from fastlt.preflight import check
            from fastlt.recipe import load_recipe

            recipe = load_recipe(self.config, self.overrides)
            # What the run's folder holds is for rank 0 to say: another host may not see it, which is another mistake.
            resume = self.resume if os.environ.get("RANK", "0") == "0" else None
            check(recipe, resume, int(os.environ.get("WORLD_SIZE", "1")))
            from fastlt.training.trainer import Trainer  # imports torch and DeepSpeed

            Trainer(recipe, self.resume).run()


def main(words: list[str] | None = None) -> int:
    """Trains as the words say."""
    words = sys.argv[1:] if words is None else words
    # The launcher passes --local_rank=N, which the environment says too.
    words = [word for word in words if not word.startswith("--local_rank=")]
    parse(TrainRank, "train.py", keys_last(words)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
