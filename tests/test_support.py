"""What other tests stand on, where it has to hold on systems that are not this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from support import TESTS, loopback
from support.descriptors import opened
from support.netns import UNSHARE, why_not

ALONE = ["sh", "-c", 'ip link set lo up && ip address del 127.0.0.1/8 dev lo && ip address add 127.0.0.1/32 dev lo && '
         'exec "$@"', "sh"]


def test_every_descriptor_is_found() -> None:
    before = opened()
    reader, writer = os.pipe()
    assert opened() - before == {reader, writer}
    os.close(reader)
    os.close(writer)
    assert opened() == before


def test_who_cannot_have_an_address_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    monkeypatch.setattr(loopback, "is_local", lambda address: address == "127.0.0.1")
    loopback.need("127.0.0.1", "10.0.0.1", "::1")
    loopback.need_all_in("members: {a: 127.0.0.1, b: 10.0.0.2}")
    for address in ("127.0.0.2", "127.7.7.7"):
        with pytest.raises(pytest.skip.Exception, match=rf"^{address} is no address of this machine; root could"):
            loopback.need_all_in(f"members: {{a: 127.0.0.1, b: {address}}}")


@pytest.mark.skipif(bool(why_not()) or shutil.which("ip") is None, reason="needs a network namespace, and ip(8)")
def test_root_adds_it_and_takes_it_away_at_the_end() -> None:
    """As on a system whose loopback interface has one address only."""
    script = textwrap.dedent(f"""
        import subprocess, sys
        sys.path.insert(0, {str(TESTS)!r})
        from support import loopback
        assert loopback.is_local("127.0.0.1") and not loopback.is_local("127.0.0.2")
        loopback.need("127.0.0.2", "127.7.7.7")
        assert loopback.is_local("127.0.0.2") and loopback.is_local("127.7.7.7")
        """)
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    done = subprocess.run([*UNSHARE, *ALONE, "sh", "-c", '"$@"; ip -o address show dev lo', "sh", sys.executable,
                           "-c", script],
                          capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "127.0.0.1/32" in done.stdout and "127.0.0.2" not in done.stdout and "127.7.7.7" not in done.stdout
