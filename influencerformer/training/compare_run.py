"""One run of a comparison in a process of its own: `fit`, with a record of it.

python -m influencerformer.training.compare_run LOSS SEED DIGEST OPTIONS_OF_FIT...
"""

from __future__ import annotations

import sys

from lightning.fabric.utilities.exceptions import MisconfigurationException

from influencerformer.errors import UserError
from influencerformer.training.cli import fit
from influencerformer.training.record import RunRecorder


def main(arguments: list[str]) -> None:
    """Train; bad input ends the process with its sentence and code 2."""
    loss, seed, digest, *options = arguments
    try:
        fit(options, [RunRecorder(loss, int(seed), digest)])
    except (UserError, MisconfigurationException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
