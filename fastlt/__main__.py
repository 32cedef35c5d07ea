"""`python -m fastlt`: the `fastlt` command."""

import sys

from fastlt.cli import main

sys.exit(main())
