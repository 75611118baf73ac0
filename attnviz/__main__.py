"""`python -m attnviz` is the command `attnviz`."""

import sys

from .cli import main

sys.exit(main())
