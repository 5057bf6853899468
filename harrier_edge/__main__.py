"""`python -m harrier_edge`."""

import sys

from harrier_edge.cli import main

sys.exit(main())
