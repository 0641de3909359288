"""`python -m bdlbench`, and the console script `bdlbench`."""

import sys

from bdlbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
