"""`python -m bdlbench`, and the console script `bdlbench`."""

import os
import sys

from bdlbench.cli import interrupts


def main() -> int:
    """Run a command in a process of its own, and return its exit code."""
    interrupts.listen()
    for number in range(3):  # else the first file that is opened gets the number of a closed stdout, and its output
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    from bdlbench.cli.main import main as run_command  # after `listen`: it takes a good part of a second

    code = run_command()
    interrupts.end_listening()
    return code


if __name__ == "__main__":
    sys.exit(main())
