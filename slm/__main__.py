"""`python -m slm`: the command line."""

import sys

from slm.cli.main import main

sys.exit(main())
