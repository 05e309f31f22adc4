"""`python -m zoo_core.cli` is `zoo`, for places where the script is not on the path."""

import sys

from zoo_core.cli import main

sys.exit(main())
