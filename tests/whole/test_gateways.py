"""Two gateways and the real programs that move addresses between them: keepalived, ExaBGP, BIRD, anycast-healthchecker.

With the samples of etc/gateways, in network namespaces; skipped where there are none, or no such programs.
"""

from __future__ import annotations

import pytest

from support.gateway_pair import inside, why_not

VRRP = """
from support.gateway_pair import Pair
pair = Pair()
first, second = pair.gateways
for gateway in pair.gateways:
    gateway.serve()
    path = gateway.configure("keepalived.conf", **{
        "fall 3": "fall 1", "rise 2": "rise 1", "advert_int 1": "advert_int 0.2",
        "priority 100": f"priority {110 - 10 * gateway.number}", "global_defs {": "global_defs {\\n    vrrp_version 3"})
    gateway.host.start("keepalived", "-n", "-l", "-f", str(path), "-p", f"{gateway.directory}/k.pid", "-r",
                       f"{gateway.directory}/v.pid")
pair.router.run("ip route add 203.0.113.10/32 dev br0")

def at(number, why):
    def there():
        return [gateway.has_vip() for gateway in pair.gateways] == [number == 1, number == 2] and (
            pair.ask() == str(number))
    pair.wait(f"the address is with {number}: {why}", there)
    print(number, why)

at(1, "it has the higher priority")
first.lose_members()
at(2, "the first sees no member any more")
first.find_members()
at(1, "it sees them again")
first.kill()
at(2, "its l4ipd was killed")
first.serve()
at(1, "its l4ipd is back")
assert first.ctl("leave") == 0
at(2, "it has left")
assert first.ctl("join") == 0
at(1, "it has joined")
"""

BGP = """
import sys, threading
from pathlib import Path
from support import ROOT
from support.gateway_pair import VIP, Pair
way = sys.argv[1]
pair = Pair()
first, second = pair.gateways

def birdc(host, directory, *words):
    return host.run(f"birdc -s {directory}/bird.ctl " + " ".join(words))

def bird(host, directory, path):
    host.start("bird", "-f", "-c", str(path), "-s", f"{directory}/bird.ctl", "-P", f"{directory}/bird.pid")

Path("router.conf").write_text((ROOT / "etc/gateways/bird-router.conf").read_text())
bird(pair.router, ".", "router.conf")
for gateway in pair.gateways:
    gateway.host.run(f"ip addr add {VIP}/32 dev lo")
    if way == "exabgp":
        path = gateway.configure("exabgp.conf", **{"/usr/local/bin/exabgp": "exabgp", "--rise 2 --fall 3":
                                                   "--rise 1 --fall 1", "--fast-interval 1": "--fast-interval 0.2"})
        gateway.host.start("exabgp", "server", str(path), **{"exabgp.daemon.user": "root", "exabgp_daemon_user": "root",
                           "exabgp_api_cli": "false", "exabgp_log_all": "true", "exabgp_tcp_bind": ""})
    else:
        listed = gateway.directory / "prefixes.conf"
        path = gateway.configure("bird-gateway.conf", **{"/etc/bird/anycast-prefixes.conf": str(listed)})
        listed.write_text("define ANNOUNCED = [ 192.0.2.255/32 ];\\n")
        bird(gateway.host, gateway.directory, path)
        path = gateway.configure("anycast-healthchecker.conf", **{
            "/var/run/anycast-healthchecker": str(gateway.directory), "/etc/bird/anycast-prefixes.conf": str(listed),
            "/usr/sbin/birdc configure": f"birdc -s {gateway.directory}/bird.ctl configure", "check_rise = 2":
            "check_rise = 1", "check_fail = 3": "check_fail = 1"})
        (gateway.directory / "d").mkdir()
        pair.wait("bird answers", (gateway.directory / "bird.ctl").exists)
        gateway.host.start("anycast-healthchecker", "-f", str(path), "-d", f"{gateway.directory}/d")

def ways():
    text = pair.router.run(f"ip route show {VIP}")
    return [number for number in (1, 2) if f"via 192.0.2.{number} " in text]

def routed(why, *numbers):
    pair.wait(f"routes to {numbers}, {why}: {ways()}", lambda: ways() == list(numbers))
    print(*numbers, why)

assert ways() == []
first.serve()
routed("the first is ready, and the other is not there", 1)
first.lose_members()
routed("it sees no member")
first.find_members()
routed("it sees them again", 1)
assert pair.ask() == "1"
second.serve()
routed("both are ready", 1, 2)
seen = [pair.ask() for _ in range(40)]
assert set(seen) == {"1", "2"}, seen
print("both serve")

later, over = [], threading.Event()
def clients():
    while not over.is_set():
        later.append(pair.ask())
thread = threading.Thread(target=clients)
thread.start()
assert first.ctl("leave", "www") == 0
routed("one has left", 2)
place = len(later) + 1                              # one may be on its way
pair.wait("connections since", lambda: len(later) > place + 10)
over.set()
thread.join()
assert set(later) <= {"1", "2"}, ("none is refused", later)
assert set(later[place:]) == {"2"}, later[place:]
print("none was refused")
assert first.ctl("join", "www") == 0
routed("it is back", 1, 2)
second.kill()
routed("the l4ipd of the other was killed", 1)
"""


def need(*programs: str) -> None:
    reason = why_not(*programs)
    if reason:
        pytest.skip(reason)


def test_keepalived_moves_the_address() -> None:
    need("keepalived")
    assert inside(VRRP).splitlines()[-1] == "1 it has joined"


@pytest.mark.parametrize("way", ["exabgp", "anycast-healthchecker"])
def test_bgp_announces_the_address_and_spreads_clients_over_both(way: str) -> None:
    need("bird", "birdc", way)
    assert inside(BGP, way).splitlines()[-1] == "1 the l4ipd of the other was killed"


# -- the samples as they are

TAKES = """
import subprocess, sys
from pathlib import Path
from support import ROOT
words, text = sys.argv[1].split(), (ROOT / "etc/gateways" / sys.argv[2]).read_text()
subprocess.run(["sh", "-ec", "ip link add name eth0 type veth peer name eth1; ip link set lo up; mkdir d"], check=True)
Path("prefixes.conf").write_text("define ANNOUNCED = [ 192.0.2.255/32 ];")
for old, new in (("/usr/local/bin/l4ipctl", "/bin/true"), ("/usr/local/bin/exabgp", "/bin/true"), ("/etc/bird/anycast",
                 "/etc/bird/"), ("/etc/bird/-", "/mnt/"), ("/var/run/anycast-healthchecker", "/mnt")):
    text = text.replace(old, new)
Path("sample").write_text(text)
done = subprocess.run(words, capture_output=True, text=True)
print(done.stdout + done.stderr, "exit status", done.returncode)
"""


@pytest.mark.parametrize("words, sample", [
    ("keepalived -t -f sample", "keepalived.conf"), ("bird -p -c sample", "bird-router.conf"),
    ("bird -p -c sample", "bird-gateway.conf"), ("exabgp validate sample", "exabgp.conf"),
    ("anycast-healthchecker -c -f sample -d d", "anycast-healthchecker.conf")])
def test_a_sample_is_taken_by_the_program_it_is_for(words: str, sample: str) -> None:
    need(words.split()[0])
    assert inside(TAKES, words, sample).rstrip().endswith("exit status 0")
