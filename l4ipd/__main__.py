"""The program ``l4ipd``: the command line, and the tour that --demo leads through it."""

from __future__ import annotations

import sys

from l4ipd.main import main


def tour(verbose: bool) -> int:
    from l4ipd.demo import run  # not before somebody wants it

    return run(verbose)


def run() -> int:
    """The entry point."""
    return main(tour=tour)


if __name__ == "__main__":
    sys.exit(run())
