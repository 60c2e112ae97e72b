"""`python -m ttt_hf.cli` is `ttt-hf`."""

import sys

from .main import main


sys.exit(main())
