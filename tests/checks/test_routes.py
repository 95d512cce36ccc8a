"""No way to a member: it counts. No way to any: the gateway is blind. In networks of their own, where that may be."""

from __future__ import annotations

import ast

import pytest

from support import netns

NEEDS_NETWORK = pytest.mark.skipif(bool(netns.why_not()), reason=netns.why_not() or "it is there")
PROBES = """
from support.netns import *
from support.members import Watch, endpoint
from l4ipd.checks.recipe import recipe
from l4ipd.model import Check
CHECKS = {"tcp": Check("tcp"), "http": Check("http"), "udp": Check("udp", send=b"x", expect=b"x"),
          "silent": Check("udp"), "closed": Check("udp", closed=True), "ping": Check("ping")}
found = {}
def look(what, *addresses):
    with Watch() as watch:
        expected = len(found) + len(addresses) * len(CHECKS)
        for address in addresses:
            for name, check in CHECKS.items():
                note = lambda verdict, key=(what, name, address): found.__setitem__(key, str(verdict))
                watch.prober.start(recipe(check, endpoint(check, 8080, address)), note)
        watch.turn_until(lambda: len(found) == expected)
with Network() as network:
    look("routed", *ONE)
    for kind in ("del", "unreachable", "prohibit", "blackhole"):
        for where in MEMBERS:
            network.route(kind, where)
        look(kind, *ONE)
        for where in MEMBERS:
            if kind != "del":
                ip("route", "del", where)
            network.route("add", where)
    CHECKS.pop("silent")
    for group in ("1 0", "0 0"):                        # ping by a raw socket, and by one of datagrams
        open("/proc/sys/net/ipv4/ping_group_range", "w").write(group)
        look(f"told by a router, {group}", "10.8.9.1", "fd08:9::1")
        look(f"no neighbour, {group}", "10.9.0.77", "fd09::77")
        CHECKS = {"ping": CHECKS["ping"]}
        look(f"many at once, {group}", *[f"10.9.0.{number}" for number in range(100, 200)])
    CHECKS = {"tcp": Check("tcp"), "udp": Check("udp"), "ping": Check("ping")}
    ip("link", "set", "in", "down")
    look("down", "10.9.0.2", "fd09::2", *ONE)
print(found)
"""


@NEEDS_NETWORK
def test_no_route_is_the_members_trouble_for_every_kind_of_probe_and_of_route() -> None:
    found = ast.literal_eval(netns.inside(PROBES))
    routed = {name: verdict for (what, name, _), verdict in found.items() if what == "routed"}
    assert routed == {"tcp": "L4OK connected", "http": "L7OK 200", "udp": "L7OK answered as expected",
                      "silent": "L4OK answered", "closed": "L4CON the port is open, and should be closed",
                      "ping": "L4OK echo answered"}
    lost = {key: verdict for key, verdict in found.items() if key[0] != "routed"}
    assert len(lost) == 4 * 12 + 2 * (10 + 2) + 2 * 100 + 3 * 4
    assert not {key: verdict for key, verdict in lost.items() if verdict != "L4CON no route to the member"}


GATEWAY = """
import tempfile
from pathlib import Path
from support.netns import *
from support.gateway import Gateway, wait
from support.sandbox_tools import sandbox
FAMILY = sys.argv[1]
one, two = (pair[FAMILY == "6"] for pair in (ONE, TWO))
ways = [network for network, address in MEMBERS.items() if address in (one, two)]
vip = "::1" if FAMILY == "6" else "127.0.0.1"
with Network() as network, sandbox() as kernel, tempfile.TemporaryDirectory() as name:
    directory = Path(name)
    gateway = Gateway(kernel, directory)
    told = directory / "told"
    program = directory / "notify"
    program.write_text(f"#!/bin/sh\\necho $L4IP_EVENT $L4IP_NAME >> {told}\\n")
    program.chmod(0o755)
    def events():
        lines = told.read_text().split("\\n")[:-1] if told.exists() else []
        return [line for line in lines if "www/check" not in line and line != "unready www"]
    def ctl(*words):
        return subprocess.run([sys.executable, "-m", "l4ipd.control.client", "-s", f"{directory}/l4ip.sock", *words],
                              capture_output=True, text=True, env=gateway.environment()).stdout
    gateway.configure(f"www:\\n  address: {vip}\\n  services:\\n    http: {{port: 8000, member_port: 8080}}\\n"
                      f"    check: {{port: 8001, member_port: 8080, check: {{type: exec, command: [/bin/false]}}}}\\n"
                      f"  members: {{m1: '{one}', m2: '{two}'}}\\n", top=f"notify: [{program}]\\n",
                      defaults="{interval: 300ms, timeout: 300ms, rise: 1, fall: 1}")
    try:
        gateway.start()
        gateway.wait_targets(one, two)
        wait("two events", lambda: len(events()) >= 2)

        network.route("del", ways[0])                   # one of them: it counts
        gateway.wait_log(f"www/http/m1 .* up -> down: L4CON no route to the member")
        gateway.wait_targets(two)
        network.route("add", ways[0])
        gateway.wait_targets(one, two)
        wait("events", lambda: events()[-2:] == ["down www/http/m1", "up www/http/m1"])
        assert not gateway.lines("blind"), gateway.text()

        before = len(events())
        for way in ways:                                # the first is without for a while: fall is 1
            network.route("unreachable", way) if way == ways[1] else network.route("del", way)
            if way == ways[0]:
                gateway.wait_log("www/http/m1 .* up -> down", 2)
        gateway.wait_log("the gateway is blind: no route to any of its 2 members")
        wait("the program hears of it", lambda: "blind" in events())
        assert "blind" in ctl("show"), ctl("show")
        assert "no route to the member" in ctl("check", "www/http/m2")
        assert gateway.targets() == [two], "m1 had gone down before, and m2 stays"
        ip("route", "del", ways[1])
        network.route("add", ways[1])
        gateway.wait_log("the gateway sees again: a route to " + two)
        network.route("add", ways[0])
        gateway.wait_targets(one, two)
        wait("events", lambda: len(events()) >= before + 4)
        assert events()[before:] == ["down www/http/m1", "blind", "sighted", "up www/http/m1"], events()[before:]

        before = len(events())
        ip("link", "set", "in", "down")                 # both at once: nothing moves, whatever is checked
        gateway.wait_log("the gateway is blind", 2)
        for word in ("www/http/m1", "www/http/m2", "www/check/m1"):
            assert word in ctl("check", word)
        ctl("disable", "www/http/m1")                   # the operator is heard
        gateway.wait_targets(two)
        ctl("enable", "www/http/m1")
        assert gateway.targets() == [two], "to be checked first"
        assert gateway.stop() == 0
        gateway.start()                                 # a start in the dark
        gateway.wait_log("the gateway is blind", 3)
        gateway.wait_log("rules of ours are in the kernel already: adopted", 1)
        assert "no route to the member" in ctl("check", "www/http/m2")
        assert gateway.targets() == [two]
        ip("link", "set", "in", "up")
        if FAMILY == "6":
            ip("addr", "add", "fd09::1/64", "dev", "in", "nodad")
        for way in ways:
            network.route("add", way)
        gateway.wait_log("the gateway sees again", 2)
        gateway.wait_targets(one, two)
        wait("events", lambda: events()[-1] == "up www/http/m1")
        assert events()[before:] == ["blind", "disabled www/http/m1", "enabled www/http/m1", "blind", "sighted",
                                     "up www/http/m1"], events()[before:]
        assert gateway.stop() == 0
    finally:
        print(gateway.text(), events())
        gateway.close()
"""


@NEEDS_NETWORK
@pytest.mark.parametrize("family", ["4", "6"])
def test_a_gateway_without_any_route_is_blind_and_changes_nothing(family: str) -> None:
    netns.inside(GATEWAY, family)
