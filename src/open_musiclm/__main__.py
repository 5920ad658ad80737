"""`python -m open_musiclm` is the command `open-musiclm`; `torchrun -m open_musiclm train …` starts it so."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
