"""`python -m edgeseg` is `edgeseg`."""

import sys

from edgeseg.cli import main

sys.exit(main())
