"""Leaving gently, with real clients: whose downloads come to their ends, and whom new clients do not meet."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.downloads import HALF, Download, Shop, download_of, member_of
from support.gateway import PATIENCE, free_port, wait
from support.operated_gateway import A, B, OperatedGateway
from support.sandbox_tools import Sandbox

WHOLE = 2 * HALF
VIP = "127.0.0.1"


class Leaving(OperatedGateway):
    """Two shops behind a gateway."""

    def setup(self, members: str = f"web1: {A}, web2: {B}", top: str = "", more: str = "", check: str = "",
              service: str = "") -> None:
        self.configure(f"www: {{address: {VIP}, services: {{http: {{port: {self.port}, member_port: {self.inside}, "
                       f"check: {{type: http{check}}}{service}}}}}, members: {{{members}}}{more}}}", top=top,
                       defaults="{interval: 600ms, timeout: 600ms, rise: 2, fall: 2}")

    def web(self, address: str, port: int, name: str = "") -> Shop:
        shop = Shop(address, port, name)
        self.webs.append(shop)
        return shop

    def begin(self) -> None:
        self.start()
        self.wait_targets(A, B)

    def download(self, name: str = A) -> Download:
        return download_of(name, VIP, self.port)

    def nobody_lands(self, name: str = A) -> None:
        """New clients, more than there are members, do not meet it."""
        assert name not in {member_of(VIP, self.port) for _ in range(4)}

    def finish(self) -> None:
        for web in self.webs:
            assert isinstance(web, Shop)
            web.finish()

    def comes_to_its_end(self, download: Download) -> None:
        self.finish()
        assert download.rest() == WHOLE


@pytest.fixture
def node(kernel: Sandbox, tmp_path: Path) -> Iterator[Leaving]:
    kernel.ipnat("-FC")
    it = Leaving(kernel, tmp_path)
    yield it
    it.finish()
    it.close()


def test_a_health_page_that_says_503_cuts_nothing(node: Leaving) -> None:
    node.begin()
    download = node.download()
    node.one.status = 503
    node.wait_targets(B)
    node.wait_log("^www/http/web1 .* up -> down: L7STS 503 Service Unavailable ")
    node.nobody_lands()
    node.comes_to_its_end(download)


@pytest.mark.parametrize("service", [", purge: yes", ", sticky: yes"])
def test_where_it_is_to_cut(node: Leaving, service: str) -> None:
    """Clients of a sticky service would go on being sent to a member that says 503."""
    node.setup(service=service)
    node.start()
    node.wait_targets(A, B)
    node.one.status = node.two.status = 503
    download = Download(VIP, node.port)
    node.wait_targets()
    node.finish()
    assert download.rest() < WHOLE


def test_where_nobody_answers_it_is_cut(node: Leaving) -> None:
    node.begin()
    download = node.download()
    node.one.stop()                                 # what it serves goes on; nobody new is let in
    node.wait_targets(B)
    node.wait_log("^www/http/web1 .* up -> down: L4CON connection refused ")
    node.finish()
    assert download.rest() < WHOLE


def test_weight_0_is_shown_and_never_given_anything(node: Leaving) -> None:
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


def test_a_reload_to_weight_0_drains(node: Leaving) -> None:
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


def test_weight_0_after_a_restart_drains(node: Leaving) -> None:
    """The rules that the last run has left are nobody's any more."""
    node.begin()
    download = node.download()
    node.stop(signal.SIGKILL)
    node.setup(members=f"web1: {{address: {A}, weight: 0}}, web2: {B}")
    node.start()
    node.wait_targets(B)
    node.nobody_lands()
    node.comes_to_its_end(download)


def test_with_nobody_else_weight_0_keeps_no_rule(node: Leaving) -> None:
    """Whatever when_all_down says: it was told to get nothing."""
    node.setup(more=", when_all_down: keep")
    node.begin()
    node.two.stop()
    node.wait_targets(A)
    node.setup(members=f"web1: {{address: {A}, weight: 0}}, web2: {B}", more=", when_all_down: keep")
    node.ctl("reload")
    node.wait_targets()


def test_a_reload_that_drops_a_member_drains(node: Leaving) -> None:
    node.begin()
    download = node.download()
    node.setup(members=f"web2: {B}")
    node.ctl("reload")
    node.wait_targets(B)
    node.nobody_lands()
    node.comes_to_its_end(download)


def test_disable_drains(node: Leaving) -> None:
    node.begin()
    download = node.download()
    node.ctl("disable", "web1")
    node.nobody_lands()
    node.one.stop()                                 # that it dies then is no reason to cut what lives
    node.wait_log("^www/http/web1 .* up -> down: ")
    node.comes_to_its_end(download)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_cuts_nothing(node: Leaving, how: signal.Signals) -> None:
    node.begin()
    downloads = [node.download(A), node.download(B)]
    node.stop(how)
    node.start()
    wait("checked", lambda: all(row["code"] for row in node.rows("show")))
    assert node.targets() == [A, B]
    node.finish()
    assert [download.rest() for download in downloads] == [WHOLE, WHOLE]


# -- a member that says that it wants to be left

def test_it_says_so_and_nobody_is_hurt(node: Leaving) -> None:
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


def test_it_drains_even_with_purge(node: Leaving) -> None:
    """That is what it asks for."""
    node.setup(check=", drain: '500-503'", service=", purge: yes")
    node.begin()
    download = node.download()
    node.one.status = 500
    node.wait_targets(B)
    node.comes_to_its_end(download)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_drains_over_a_restart_and_a_reload(node: Leaving, how: signal.Signals) -> None:
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


def test_one_that_died_in_the_middle_of_it_is_drained(node: Leaving) -> None:
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


def test_all_drain(node: Leaving) -> None:
    node.setup(check=", drain: 503", more=", when_all_down: keep")
    node.begin()
    node.two.status = 503
    node.wait_targets(A)
    node.one.status = 503
    node.wait_log("^www/http: no member is up; its last rules stay")
    assert node.targets() == [A], "somebody has to serve who comes"


def test_what_page_and_metrics_say(node: Leaving) -> None:
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
