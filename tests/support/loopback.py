"""Addresses of 127/8: Linux has all of them, other systems only 127.0.0.1 until somebody adds the rest to lo0.

Who makes a member or writes a configuration says which it needs, and so does a test by itself, with
``@pytest.mark.loopback("127.0.0.2")``. Where we are root they are added, and taken away at the end; else the test is
skipped, with the reason.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import subprocess
import sys

import pytest


def is_local(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def need(*addresses: str) -> None:
    """Have these addresses, or skip the test."""
    missing = [address for address in addresses if address.startswith("127.") and not is_local(address)]
    if missing and os.geteuid() == 0:
        for address in missing:
            change("add", address)
        missing = [address for address in missing if not is_local(address)]
    if missing:
        pytest.skip(f"{missing[0]} is no address of this machine; root could add it to lo0")


def need_all_in(text: str) -> None:
    """The same for every such address in a configuration."""
    need(*sorted(set(re.findall(r"\b127(?:\.\d{1,3}){3}\b", text))))


def change(verb: str, address: str) -> None:
    """Add an address to the loopback interface, or remove it."""
    if sys.platform.startswith("linux"):
        words = ["ip", "address", "add" if verb == "add" else "del", f"{address}/32", "dev", "lo"]
    else:
        words = ["ifconfig", "lo0", "inet", f"{address}/32", "alias" if verb == "add" else "-alias"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if verb == "add" and done.returncode == 0 and "PYTEST_XDIST_WORKER" not in os.environ:
        atexit.register(change, "remove", address)  # beside other workers they stay: those may need them still
