"""Random damage to everything that a user can hand to `ttt-hf`: it may be refused, but never end in a traceback.

    python -m tests.fuzz --cases 10000                 # of all kinds
    python -m tests.fuzz --kind audio --case 17        # one case again, with what the command printed

A kind (`kinds/`) prepares sound files once, damages some of them for each case, and names the command that a user
would run on them. `runner.py` runs each case in a process of its own and judges how it ended.
"""

import sys
from pathlib import Path


# Helpers of other tests; tests/ itself is no package.
sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("", "evaluation", "serving")]
