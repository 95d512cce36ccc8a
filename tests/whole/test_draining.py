"""ShopGateway gently, with real clients: whose downloads come to their ends, and whom new clients do not meet."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.control.disable import NOW_OR_NEVER, STICKY
from l4ipd.sandbox import tool_words
from support.downloads import VIP, WHOLE, Download, ShopGateway, Waiter
from support.gateway import PATIENCE, free_port, wait
from support.operated_gateway import A, B
from support.sandbox_tools import Sandbox


@pytest.fixture
def node(kernel: Sandbox, tmp_path: Path) -> Iterator[ShopGateway]:
    kernel.ipnat("-FC")
    it = ShopGateway(kernel, tmp_path)
    yield it
    it.finish()
    it.close()


def test_a_health_page_that_says_503_cuts_nothing(node: ShopGateway) -> None:
    node.begin()
    download = node.download()
    node.one.status = 503
    node.wait_targets(B)
    node.wait_log("^www/http/web1 .* up -> down: L7STS 503 Service Unavailable ")
    node.nobody_lands()
    node.comes_to_its_end(download)


@pytest.mark.parametrize("service", [", purge: yes", ", sticky: yes"])
def test_where_it_is_to_cut(node: ShopGateway, service: str) -> None:
    """Clients of a sticky service would go on being sent to a member that says 503."""
    node.setup(service=service)
    node.start()
    node.wait_targets(A, B)
    node.one.status = node.two.status = 503
    download = Download(VIP, node.port)
    node.wait_targets()
    node.finish()
    assert download.rest() < WHOLE


def test_where_nobody_answers_it_is_cut(node: ShopGateway) -> None:
    node.begin()
    download = node.download()
    node.one.stop()                                 # what it serves goes on; nobody new is let in
    node.wait_targets(B)
    node.wait_log("^www/http/web1 .* up -> down: L4CON connection refused ")
    node.finish()
    assert download.rest() < WHOLE


def test_weight_0_is_shown_and_never_given_anything(node: ShopGateway) -> None:
    node.setup(members=f"web1: {{address: {A}, weight: 0}}, web2: {B}")
    node.start()
    node.wait_targets(B)
    wait("checked", lambda: node.states() == {"web1": "up", "web2": "up"})
    assert node.ctl("show")[0] == 0
    row = node.rows("show")[0]
    assert (row["up"], row["rule"]) == (True, "no")
    node.nobody_lands()
    node.two.stop()
    node.wait_targets()
    assert node.lines("^www/http/web2 .* up -> down: .*; 0 of 1 up$") and node.lines("^www/http: no member is up$")
    node.setup(members=f"web1: {A}, web2: {B}")
    node.ctl("reload")
    node.wait_targets(A)


def test_a_reload_to_weight_0_drains(node: ShopGateway) -> None:
    node.setup(members=f"web1: {{address: {A}, weight: 2}}, web2: {B}")
    node.start()
    node.wait_targets(A, A, B)
    download = node.download()
    node.setup(members=f"web1: {{address: {A}, weight: 0}}, web2: {B}")
    assert node.ctl("reload")[1] == "configuration reloaded: 2 endpoints: 0 new, 1 changed, 0 gone\n"
    node.wait_targets(B)
    node.nobody_lands()
    node.comes_to_its_end(download)
    assert not node.lines("web1 .* -> (down|unknown)")


def test_weight_0_after_a_restart_drains(node: ShopGateway) -> None:
    """The rules that the last run has left are nobody's any more."""
    node.begin()
    download = node.download()
    node.stop(signal.SIGKILL)
    node.setup(members=f"web1: {{address: {A}, weight: 0}}, web2: {B}")
    node.start()
    node.wait_targets(B)
    node.nobody_lands()
    node.comes_to_its_end(download)


def test_with_nobody_else_weight_0_keeps_no_rule(node: ShopGateway) -> None:
    """Whatever when_all_down says: it was told to get nothing."""
    node.setup(more=", when_all_down: keep")
    node.begin()
    node.two.stop()
    node.wait_targets(A)
    node.setup(members=f"web1: {{address: {A}, weight: 0}}, web2: {B}", more=", when_all_down: keep")
    node.ctl("reload")
    node.wait_targets()


def test_a_reload_that_drops_a_member_drains(node: ShopGateway) -> None:
    node.begin()
    download = node.download()
    node.setup(members=f"web2: {B}")
    node.ctl("reload")
    node.wait_targets(B)
    node.nobody_lands()
    node.comes_to_its_end(download)


def test_disable_drains(node: ShopGateway) -> None:
    node.begin()
    download = node.download()
    node.ctl("disable", "web1")
    node.nobody_lands()
    node.one.stop()                                 # that it dies then is no reason to cut what lives
    node.wait_log("^www/http/web1 .* up -> down: ")
    node.comes_to_its_end(download)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_cuts_nothing(node: ShopGateway, how: signal.Signals) -> None:
    node.begin()
    downloads = [node.download(A), node.download(B)]
    node.stop(how)
    node.start()
    wait("checked", lambda: all(row["code"] for row in node.rows("show")))
    assert node.targets() == [A, B]
    node.finish()
    assert [download.rest() for download in downloads] == [WHOLE, WHOLE]


# -- a member that says that it wants to be left

def test_it_says_so_and_nobody_is_hurt(node: ShopGateway) -> None:
    node.setup(check=", drain: 503, interval: 300ms, timeout: 300ms, fall: 3")
    node.begin()
    download = node.download()
    node.one.status = 503
    node.wait_targets(B)
    assert node.states() == {"web1": "draining", "web2": "up"}
    assert node.lines(f"^www/http/web1 {A}:{node.inside} up -> draining: L7STS 503 Service Unavailable "
                      r"\(\d+ ms\); 1 of 2 up$")
    node.nobody_lands()
    assert node.ctl("show")[0] == 1
    row = node.rows("show", "web1")[0]
    assert (row["up"], row["disabled"], row["rule"], row["code"]) == (False, False, "no", "L7STS")
    node.comes_to_its_end(download)
    node.one.status = 200
    node.wait_targets(A, B)
    assert node.lines(r"^www/http/web1 .* draining -> up: L7OK 200 \(2 of 2 passed, \d+ ms\); 2 of 2 up$")
    node.one.status = 503
    node.wait_log("up -> draining: ", 2)
    node.one.stop()
    node.wait_log(r"^www/http/web1 .* draining -> down: L4CON connection refused \(3 of 3 failed, \d+ ms\); 1 of 2 up$")
    assert not node.lines("web1 .* (up -> down|unknown -> down)")


def test_it_drains_even_with_purge(node: ShopGateway) -> None:
    """That is what it asks for."""
    node.setup(check=", drain: '500-503'", service=", purge: yes")
    node.begin()
    download = node.download()
    node.one.status = 500
    node.wait_targets(B)
    node.comes_to_its_end(download)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_drains_over_a_restart_and_a_reload(node: ShopGateway, how: signal.Signals) -> None:
    node.setup(check=", drain: 503", top="notify: [/bin/sh, -c, 'echo \"$L4IP_EVENT $L4IP_STATE\" >> told', x]")
    node.begin()
    download = node.download()
    node.one.status = 503
    node.wait_targets(B)
    node.wait_log("up -> draining: ")
    told, state = node.directory / "told", node.directory / "state.json"
    wait("told", lambda: told.exists() and "draining draining" in told.read_text())
    wait("saved", lambda: state.exists() and json.loads(state.read_text())["draining"] == ["www/http/web1"])
    node.stop(how)
    node.start()
    node.wait_log("^www/http/web1 .* unknown -> draining: ")
    assert node.states()["web1"] == "draining"
    node.setup(check=", drain: 503, path: /other", top="")
    node.ctl("reload")
    node.wait_log("^www/http/web1 .* unknown -> draining: ", 2)
    assert node.targets() == [B]
    node.nobody_lands()
    node.comes_to_its_end(download)
    assert told.read_text().count("draining") == 2, "it was draining before, and is no news"


def test_one_that_died_in_the_middle_of_it_is_drained(node: ShopGateway) -> None:
    """The daemon is killed before the rules have gone: the next one finds them, and the member still says so."""
    node.setup(check=", drain: 503")
    node.begin()
    download = node.download()
    node.stop(signal.SIGKILL)
    node.one.status = 503
    assert node.targets() == [A, B]
    node.start()
    node.wait_targets(B)
    node.nobody_lands()
    node.comes_to_its_end(download)


def test_all_drain(node: ShopGateway) -> None:
    node.setup(check=", drain: 503", more=", when_all_down: keep")
    node.begin()
    node.two.status = 503
    node.wait_targets(A)
    node.one.status = 503
    node.wait_log("^www/http: no member is up; its last rules stay")
    assert node.targets() == [A], "somebody has to serve who comes"


def test_what_page_and_metrics_say(node: ShopGateway) -> None:
    port = free_port()
    node.setup(check=", drain: 503", top=f"http: 127.0.0.1:{port}")
    node.begin()
    node.one.status = 503
    node.wait_targets(B)

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    metrics = get("/metrics")
    assert 'l4ip_endpoint_draining{cluster="www",member="web1",service="http"} 1.0' in metrics
    assert 'l4ip_endpoint_draining{cluster="www",member="web2",service="http"} 0.0' in metrics
    assert 'l4ip_transitions_total{state="draining"} 1.0' in metrics and 'kind="draining"' not in metrics
    page = get("/")
    assert ">draining<" in page and "1 endpoint up, 1 disabled or draining" in page
    row = json.loads(get("/status.json"))["endpoints"][0]
    assert (row["state"], row["up"]) == ("draining", False)


# -- waiting until it is empty

def test_disable_waits_until_nobody_is_left(node: ShopGateway) -> None:
    node.begin()
    downloads = [node.download(), node.download()]
    waiter = Waiter(node, "disable", "web1", "--wait")
    waiter.says("sessions left: 2")
    assert node.states()["web1"] == "disabled (up)", "nobody else has to wait"
    assert node.rows("show", "web1")[0]["sessions"] == 2 and node.targets() == [B]
    node.nobody_lands()
    assert waiter.process.poll() is None
    node.comes_to_its_end(*downloads)
    node.forget_the_closed()
    assert waiter.end() == (0, "")
    assert waiter.out.read_text().splitlines() == ["www/http/web1 disabled", "sessions left: 2", "sessions left: 0",
                                                   "no session is left"]
    assert node.ctl("disable", "web1", "--wait", "0") == (
        0, "www/http/web1 was disabled already\nsessions left: 0\nno session is left\n", "")


def test_the_time_is_up(node: ShopGateway) -> None:
    node.begin()
    download, other = node.download(A), node.download(B)
    status, out, err = node.ctl("disable", "*", "--wait", "100ms")
    total, *each = [int(number) for number in re.findall(r"sessions that are left: (\d+)$", err, re.MULTILINE)]
    assert status == 1 and total == sum(each) >= 2 and err.startswith("l4ipctl: after 100ms, ")
    assert set(re.findall("www/http/web[12]: sessions that are left: [1-9]", err)) and len(each) == 2
    assert out.splitlines() == ["www/http/web1 disabled", "www/http/web2 disabled",
                                "warning: www/http: no member is left", f"sessions left: {total}", NOW_OR_NEVER]
    rows = node.rows("disable", "web1", "--wait", "0")
    number = rows[1]["sessions"]
    assert rows[0]["endpoint"] == "www/http/web1" and number and rows[1]["text"] == f"sessions left: {number}"
    node.comes_to_its_end(download, other)
    node.forget_the_closed()
    assert node.ctl("disable", "*", "--wait", "1m")[0] == 0


def test_who_waits_for_one_that_is_put_back(node: ShopGateway) -> None:
    node.begin()
    download = node.download()
    waiter = Waiter(node, "disable", "web1", "--wait")
    waiter.says("sessions left: 1")
    node.ctl("enable", "web1")
    assert waiter.end() == (1, "l4ipctl: www/http/web1: is not disabled any more: its sessions are not waited for\n")
    node.comes_to_its_end(download)


def test_a_daemon_that_dies_meanwhile(node: ShopGateway) -> None:
    """It is still disabled, and waited for again."""
    node.begin()
    download = node.download()
    waiter = Waiter(node, "disable", "web1", "--wait", "1h")
    waiter.says("sessions left: 1")
    node.stop(signal.SIGKILL)
    assert waiter.end()[0] == 3
    node.start()
    wait("checked", lambda: node.states() == {"web1": "disabled (up)", "web2": "up"})
    again = Waiter(node, "disable", "web1", "--wait", "1h")
    again.says("sessions left: 1")
    node.setup(members=f"web1: {A}, web2: {B}, web3: 127.0.0.13")
    assert node.ctl("reload")[0] == 0
    node.nobody_lands()
    node.comes_to_its_end(download)
    node.forget_the_closed()
    assert again.end()[0] == 0


def test_cut_and_wait(node: ShopGateway) -> None:
    node.begin()
    download = node.download()
    assert node.ctl("disable", "web1", "--now", "--wait")[0] == 0
    node.finish()
    assert download.rest() < WHOLE


def test_what_was_to_be_cut_is_cut_by_the_next_run(node: ShopGateway) -> None:
    """The daemon dies after it has written it down, and before ipnat has run."""
    node.begin()
    download = node.download()
    tools = node.config.read_text()
    node.config.write_text(re.sub(r"(?m)^  ipnat: .*$", "  ipnat: /nonexistent/ipnat", tools))
    node.ctl("reload")
    assert node.ctl("disable", "web1", "--now")[0] == 1 and node.targets() == [A, B]
    node.stop(signal.SIGKILL)
    node.config.write_text(tools)
    node.start()
    node.wait_targets(B)
    node.finish()
    assert download.rest() < WHOLE


def test_words_that_are_no_time(node: ShopGateway) -> None:
    node.begin()
    status, _, err = node.ctl("disable", "--wait", "web1")
    assert status == 2 and "web1 is no time, such as 30s or 5m; patterns come first" in err
    assert node.states()["web1"] == "up"


def test_sessions_that_cannot_be_counted(node: ShopGateway) -> None:
    """Nobody is told that it is empty by a gateway that cannot see it."""
    script = node.directory / "ipnat"
    script.write_text(f'#!/bin/sh\n[ "$*" != -l ] || [ ! -e {script}.broken ] || {{ echo broken >&2; exit 1; }}\n'
                      f'exec {" ".join(tool_words(node.kernel.path)["ipnat"])} "$@"\n')
    script.chmod(0o700)
    text = re.sub(r"(?m)^  ipnat: .*$", f"  ipnat: {script}", node.config.read_text())
    node.config.write_text(text.replace("300ms", "1h"))
    node.begin()
    node.ctl("disable", "web1")
    (node.directory / "ipnat.broken").touch()
    assert node.ctl("disable", "web1", "--wait", "0") == (
        1, "www/http/web1 was disabled already\nsessions cannot be counted: ipnat -l: broken\n",
        "l4ipctl: after 0ms, it is not known how many sessions are left\n")
    waiter = Waiter(node, "disable", "web1", "--wait")
    waiter.says("sessions cannot be counted: ipnat -l: broken")
    (node.directory / "ipnat.broken").unlink()
    assert waiter.end() == (0, "")


def test_clients_of_a_sticky_service_come_back(node: ShopGateway) -> None:
    """As IPFilter does it, and as who takes such a member out is told."""
    node.setup(service=", sticky: yes")
    node.begin()
    downloads = [Download(VIP, node.port)]
    where = {A: "web1", B: "web2"}[downloads[0].member]
    assert node.ctl("disable", where) == (0, f"www/http/{where} disabled\n{NOW_OR_NEVER}\n{STICKY}\n", "")
    assert node.targets() == [({A, B} - {downloads[0].member}).pop()]
    downloads.append(Download(VIP, node.port))
    assert downloads[1].member == downloads[0].member
    node.comes_to_its_end(*downloads)


# -- killed at any moment

WITHOUT = {"weight": f"web1: {{address: {A}, weight: 0}}, web2: {B}", "configuration": f"web2: {B}"}


def test_killed_at_any_moment_of_it(node: ShopGateway) -> None:
    """kill -9 while a member leaves, in one way or another: every byte arrives, and who comes later goes elsewhere."""
    chance = random.Random(seed := os.environ.get("L4IP_SEED", str(random.randrange(10**9))))
    print(f"L4IP_SEED={seed}")
    node.setup(check=", drain: 503")
    node.begin()
    downloads = []
    for way in chance.sample(["disable", "page", *WITHOUT], 3):
        downloads += [node.download(A), node.download(B)]
        if way == "disable":
            asked = node.popen("disable", "web1")
        elif way == "page":
            node.one.status = 503
        else:
            node.setup(members=WITHOUT[way], check=", drain: 503")
            node.send(signal.SIGHUP)
        time.sleep(chance.uniform(0.0, 0.7))
        node.stop(signal.SIGKILL)
        if way == "disable":
            asked.communicate(timeout=PATIENCE)
        node.start()
        if way == "disable" and asked.returncode != 0:      # it was not told that it is
            assert node.ctl("disable", "web1")[0] == 0
        node.wait_targets(B)
        node.nobody_lands()
        node.one.status = 200
        node.setup(check=", drain: 503")
        node.ctl("reload")
        node.ctl("enable", "web1")
        node.wait_targets(A, B)
    node.comes_to_its_end(*downloads)
