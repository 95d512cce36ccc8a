"""``python3 -I -m l4ipd.sandbox [-s SOCKET] serve`` or ``… TOOL ARGUMENTS``. SOCKET defaults to $L4IP_SANDBOX."""

from __future__ import annotations

import argparse
import os
import sys

from l4ipd.sandbox import TOOLS, client
from l4ipd.sandbox.version import NEWEST, VARIABLE, VERSIONS


def main(words: list[str]) -> int:
    first = words[2] if words[:1] == ["-s"] and len(words) > 2 else words[0] if words else ""
    if first in TOOLS:
        return client.main(words)
    parser = argparse.ArgumentParser(prog="l4ipd.sandbox", description="IPFilter for machines that have none.",
                                     usage="%(prog)s [-s SOCKET] [--ipfilter VERSION] [--until-eof] "
                                           "[--iterators S] serve\n"
                                           "       %(prog)s [-s SOCKET] ipnat|ipf|ipfstat|ipmon [ARGUMENTS]")
    parser.add_argument("-s", dest="socket", default=os.environ.get("L4IP_SANDBOX", ""), help="where the tools find it")
    parser.add_argument("--ipfilter", choices=list(VERSIONS), default=os.environ.get(VARIABLE) or NEWEST.number,
                        help=f"the version to play (default ${VARIABLE}, or {NEWEST.number})")
    parser.add_argument("--version-4.1", dest="ipfilter", action="store_const", const="4.1", help=argparse.SUPPRESS)
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    parser.add_argument("--iterators", type=float, metavar="S", default=10.0, help="for how long a listing is "
                        "remembered, so that a rule is in use, and the next begins where one was cut (default 10)")
    parser.add_argument("command", choices=["serve"])
    options = parser.parse_args(words)
    if options.ipfilter not in VERSIONS:
        parser.error(f"{VARIABLE}: {options.ipfilter} is none of {', '.join(VERSIONS)}")
    if not options.socket:
        parser.error("no socket: give -s SOCKET or set L4IP_SANDBOX")
    from l4ipd.sandbox.serve import serve
    return serve(options.socket, VERSIONS[options.ipfilter], options.until_eof, options.iterators)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
