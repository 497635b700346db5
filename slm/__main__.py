"""`python -m slm`: the command line."""

import sys

from slm.cli.commands import main

sys.exit(main())
