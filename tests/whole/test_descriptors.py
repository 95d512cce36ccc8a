"""Few descriptors: the tools, the sockets and the files have theirs before probes get any, or the start is refused."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from l4ipd.checks.socket_pool import LISTS
from l4ipd.config.parse import parse
from l4ipd.control.server import CLIENTS
from l4ipd.descriptors import Descriptors, TooFew, need, share
from support.gateway import Gateway, free_port, wait
from support.sandbox_tools import Sandbox

PLAIN = "ipfilter: {interface: lo}\n"
CLUSTERS = "clusters: {w: {address: 10.0.0.1, services: {h: {port: 80%s}}, members: {m: 10.0.0.2}}}\n"
MORE = {"nothing": PLAIN + CLUSTERS % "", "resets": PLAIN + "resets: {interface: lo}\n" + CLUSTERS % "",
        "http": PLAIN + "http: 127.0.0.1:1\n" + CLUSTERS % "",
        "notify": PLAIN + "notify: [/bin/sh, -c, exit]\n" + CLUSTERS % "",
        "exec": PLAIN + CLUSTERS % ", check: {type: exec, command: [/bin/sh, -c, exit]}",
        "ping": PLAIN + CLUSTERS % ", check: ping"}


@pytest.mark.parametrize("limit", [*range(1, 120), 200, 256, 1000, 1024, 4096, 10_000, 65536, 1 << 20])
@pytest.mark.parametrize("what", MORE)
def test_shares_add_up_and_nobody_gets_nothing(what: str, limit: int) -> None:
    config = parse(MORE[what], "")
    try:
        budget = share(limit, 3, config)
    except TooFew as problem:
        least = int(re.findall(r"\d+", str(problem))[1])
        assert least > limit and share(least, 3, config).probes == 1
        with pytest.raises(TooFew):
            share(least - 1, 3, config)
        return
    assert min(budget.probes, budget.clients - 1, budget.commands) >= 1 and budget.spare >= 0
    assert budget.clients <= CLIENTS and (limit < 2000 or budget.probes > limit / 4)
    used = 3 + need(config) + budget.probes + LISTS * budget.spare
    assert used + 3 * (budget.commands - 1) + 4 * (budget.clients - 2) <= limit


def test_every_need_costs() -> None:
    needs = {what: need(parse(text, "")) for what, text in MORE.items()}
    assert all(needs[what] > needs["nothing"] for what in MORE if what != "nothing")


def test_a_reload_that_needs_more() -> None:
    few, more = parse(MORE["nothing"], ""), parse(MORE["resets"], "")
    enough = Descriptors(few, 3)
    assert not enough.refuses(more) and enough.probes(more) == enough.budget.probes - (need(more) - need(few))
    tight = Descriptors(few, enough.limit - need(few) - 8)      # as if that many were open
    assert tight.probes(few) >= 1 and str(enough.limit + 1 - tight.probes(more)) in tight.refuses(more)


# -- the daemon

A, B = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()
    for line in [each for each in it.kernel.ipnat("-l").rules if "tag l4ip" in each]:
        it.kernel.remove(line)


def at_most(count: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def refusal(gateway: Gateway, count: int) -> str:
    done = subprocess.run(gateway.command("-d"), capture_output=True, text=True, timeout=20, cwd=gateway.directory,
                          env=gateway.environment(), preexec_fn=at_most(count))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def ctl(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "l4ipd.control.client", "-s", str(gateway.directory / "l4ip.sock"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=gateway.environment(), timeout=60)


@pytest.mark.parametrize("full", [False, True], ids=["plain", "everything"])
def test_the_number_that_is_said_does_and_one_less_does_not(gateway: Gateway, full: bool) -> None:
    inside, page = free_port(), free_port()
    for address in (A, B):
        gateway.web(address, inside)
    others = (f"      command: {{port: 4, member_port: {inside}, "
              "check: {type: exec, command: [/bin/sh, -c, exit]}}\n"
              f"      ping: {{port: 5, member_port: {inside}, check: ping}}\n")
    gateway.configure(
        f"www:\n    address: {A}\n    services:\n"
        f"      http: {{port: {free_port()}, member_port: {inside}, check: http}}\n"
        + others * full + f"    members: {{a: {A}, b: {B}}}\n",
        top=f"resets: {{interface: lo0}}\nnotify: [/bin/sh, -c, exit]\nhttp: {A}:{page}\n" if full else "")
    least = int(re.findall(r"\d+", refusal(gateway, 24))[1])
    assert str(least) in refusal(gateway, least - 1)
    gateway.start(preexec=at_most(least))
    count = 6 if full else 2
    wait(f"rules\n{gateway.text()}", lambda: len(gateway.rules()) == count)

    def ask(number: int) -> None:
        """What people do at the same time; two may at once."""
        for words in (["show"], ["rules"], ["check", "www/http/*"], ["reload"]):
            assert ctl(gateway, *words).returncode == 0, words
        if full:
            with urllib.request.urlopen(f"http://{A}:{page}/status.json", timeout=20) as answer:
                assert json.load(answer)["endpoints"]

    with ThreadPoolExecutor(2) as people:
        list(people.map(ask, range(4)))
    gateway.webs[1].stop()
    gateway.wait_targets(*([A] * (count // 2) + [B] * (count // 2 - 1)))
    assert not re.search("(?i)too many|cannot be (started|served|written)", gateway.text()), gateway.text()
    assert not gateway.lines("ipmon.*trying again")


@pytest.mark.loopback(*(f"127.0.4.{number}" for number in range(1, 41)))
def test_silent_members_do_not_take_what_the_tools_need(gateway: Gateway) -> None:
    inside = free_port()
    with contextlib.ExitStack() as stack:
        for number in range(1, 41):                 # they accept, and never say a word
            stack.enter_context(socket.create_server((f"127.0.4.{number}", inside)))
        gateway.web(A, inside)
        members = ", ".join(f"m{number}: 127.0.4.{number}" for number in range(1, 41))
        service = f"{{port: {free_port()}, member_port: {inside}, check: http}}"
        gateway.configure(f"www: {{address: {A}, services: {{http: {service}}}, members: {{a: {A}, {members}}}}}",
                          defaults="{interval: 1s, timeout: 900ms}")
        gateway.start(preexec=at_most(42))
        gateway.wait_targets(A)
        gateway.wait_log("probes are late: .* raise the limit of open files")
        assert ctl(gateway, "show", "www/http/a").returncode == 0
        assert not re.search("(?i)too many", gateway.text()), gateway.text()
