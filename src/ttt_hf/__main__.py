"""`python -m ttt_hf` is `ttt-hf`."""

import sys

from .cli.main import main


if __name__ == "__main__":
    sys.exit(main())
