"""Run one of our modules as a program, isolated: ``python -I isolated.py MODULE WORDS...``.

Python takes modules from where its environment says and, with ``-m``, from the directory in which it is started: both
may be anybody's, and we may be root. So it is told not to, and ours come from beside this file.
"""

import os
import sys


def words(module: str, *more: str) -> tuple[str, ...]:
    """The words that run a module with its full name, ``l4ipd.demo``."""
    return sys.executable, "-I", os.path.abspath(__file__), module, *more


def main() -> None:
    import runpy
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
