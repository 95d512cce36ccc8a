"""Whether a gateway is able to serve a cluster: what counts, what is told of it, and what the operator says to it."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from l4ipd.sandbox import tool_words
from support import ROOT
from support.gateway import free_port, wait
from support.operated_gateway import A, B, C, OperatedGateway
from support.sandbox_tools import Sandbox

PACE = "{interval: 500ms, timeout: 500ms, rise: 2, fall: 2, fast_interval: 200ms}"


class Announced(OperatedGateway):
    """Cluster www on A and B, with another service maybe, and cluster mail on A; what a program is told is kept."""

    def __init__(self, kernel: Sandbox, directory: Path) -> None:
        self.told, self.page, self.alt = directory / "told", free_port(), free_port()
        self.notify = directory / "notify"
        self.notify.write_text(f'#!/bin/sh\necho "$1 $2 $L4IP_CLUSTER/$L4IP_SERVICE/$L4IP_STATE/$L4IP_VIP" '
                               f'"$L4IP_REASON" >> {self.told}\n')
        self.notify.chmod(0o755)
        self.told.touch()
        super().__init__(kernel, directory)
        self.other = self.web(B, self.alt)

    def setup(self, members: str = f"web1: {A}, web2: {B}", top: str = "", more: str = "", ipfilter: str = "",
              services: str = "") -> None:
        http = f"{{port: {self.port}, member_port: {self.inside}, check: tcp}}"
        self.configure(
            f"www: {{address: 127.0.0.1, services: {{http: {http}{services}}}, members: {{{members}}}{more}}}\n"
            f"mail: {{address: 127.0.0.2, services: {{http: {http}}}, members: {{web1: {A}}}}}", ipfilter=ipfilter,
            top=f"notify: {self.notify}\nhttp: 127.0.0.1:{self.page}\n{top}", defaults=PACE)

    def alternative(self, ready: str, **more: str) -> None:
        """With a second service of www, that only B has."""
        self.setup(services=f", alt: {{port: {self.alt}, member_port: {self.alt}, check: tcp}}",
                   more=f", ready: {ready}", **more)

    def begin(self) -> None:
        self.start()
        self.wait_ready("www")

    def ready(self, *names: str) -> tuple[int, str, str]:
        return self.ctl("ready", *names)

    def wait_ready(self, name: str, status: int = 0) -> None:
        wait(f"{name} {'un' * status}ready:\n{self.text()}", lambda: self.ready(name)[0] == status)

    def events(self) -> list[str]:
        """What the program heard of readiness: event and cluster."""
        return [" ".join(line.split()[:2]) for line in self.told.read_text().splitlines() if "ready" in line.split()[0]]

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.page, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def breakable(self) -> tuple[str, Path]:
        """An ipnat that fails while a file is there, and what the configuration says of it."""
        broken, script = self.directory / "broken", self.directory / "ipnat"
        script.write_text(f'#!/bin/sh\n[ ! -e {broken} ] || {{ echo no such device >&2; exit 1; }}\n'
                          f'exec {" ".join(tool_words(self.kernel.path)["ipnat"])} "$@"\n')
        script.chmod(0o755)
        return f"ipnat: {script}", broken


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Announced]:
    kernel.ipnat("-FC")
    it = Announced(kernel, tmp_path)
    yield it
    it.close()


def test_everybody_is_told_the_same(gateway: Announced) -> None:
    gateway.begin()
    gateway.wait_ready("mail")
    assert gateway.ready() == (0, "www ready\nmail ready\n", "")
    rows = gateway.rows("ready")
    assert [(row["cluster"], row["ready"], row["state"], row["reason"], row["left"]) for row in rows] == [
        ("www", True, "ready", "", False), ("mail", True, "ready", "", False)]
    assert "; clusters: 2 of 2 ready\n" in gateway.ctl("show")[1]
    gateway.one.stop()
    gateway.wait_ready("mail", 1)
    assert gateway.ready() == (1, "www ready\nmail unready: http 0 of 1 up\n", "")
    assert gateway.ready("www")[0] == 0
    out = gateway.ctl("show")[1]
    assert "; clusters: 1 of 2 ready\n" in out and re.search("(?m)^mail unready: http 0 of 1 up, for [0-9]+s$", out)
    assert gateway.get("/healthz?cluster=www") == (200, "www ready\n")
    assert gateway.get("/healthz?cluster=mail") == (503, "mail unready: http 0 of 1 up\n")
    assert gateway.get("/healthz?cluster=web") == (404, "there is no such cluster\n")
    for pair in ("cluster=www&cluster=mail", "cluster=mail&cluster=www"):
        status, text = gateway.get(f"/healthz?{pair}")
        assert status == 503 and set(text.splitlines()) == {"www ready", "mail unready: http 0 of 1 up"}
    for nobody in ("cluster=", "cluster", "cluster=www&cluster=", "cluster=web&cluster=www"):
        assert gateway.get(f"/healthz?{nobody}") == (404, "there is no such cluster\n"), "a name was forgotten"
    assert gateway.get("/healthz")[0] == 200, "that is of the daemon"
    families = {family.name: family for family in text_string_to_metric_families(gateway.get("/metrics")[1])}
    assert {sample.labels["cluster"]: sample.value for sample in families["l4ip_cluster_ready"].samples} == {
        "www": 1, "mail": 0}
    clusters = json.loads(gateway.get("/status.json")[1])["clusters"]
    assert [(row["cluster"], row["ready"], row["reason"]) for row in clusters] == [
        ("www", True, ""), ("mail", False, "http 0 of 1 up")]
    page = gateway.get("/")[1]
    assert re.search(r'>mail <.*</svg>unready</span> <span class="s">http 0 of 1 up</span></h2>', page)
    assert re.search(r">www <.*</svg>ready</span></h2>", page)
    gateway.one.start()
    gateway.wait_ready("mail")
    wait(f"told: {gateway.told.read_text()}", lambda: gateway.told.read_text().count("ready mail ") == 3)
    assert sorted(gateway.events()[:2]) == ["ready mail", "ready www"]
    assert gateway.events()[2:] == ["unready mail", "ready mail"]
    assert "unready mail mail//unready/127.0.0.2 http 0 of 1 up\n" in gateway.told.read_text()
    assert gateway.lines("^mail ready -> unready: http 0 of 1 up$")
    assert gateway.lines("^mail unready -> ready: http 1 of 1 up$")
    assert gateway.lines("^www unknown -> ready: http [12] of 2 up$")


def test_names_that_no_cluster_has(gateway: Announced) -> None:
    gateway.begin()
    assert gateway.ready("") == (2, "", "l4ipctl: '': no such cluster\n")
    assert gateway.ready("www", "wwww") == (2, "", "l4ipctl: wwww: no such cluster; did you mean www?\n")
    assert gateway.ctl("leave", "www/http")[0] == 2
    assert gateway.ready("www")[0] == 0


@pytest.mark.parametrize("ready, statuses", [
    ("{services: all}", (0, 0, 1, 1)), ("{services: any}", (0, 0, 0, 0)), ("{members: 2}", (0, 1, 1, 1)),
    ("{services: any, members: 2}", (0, 0, 0, 1))])
def test_services_and_members(gateway: Announced, ready: str, statuses: tuple[int, ...]) -> None:
    """Services http and alt have 2 and 2 members, then 2 and 1, 2 and 0, 1 and 0."""
    third = gateway.web(A, gateway.alt)
    gateway.alternative(ready)
    gateway.begin()
    assert gateway.ready("www")[0] == statuses[0]
    for web, name, status in ((third, "www/alt/web1", statuses[1]), (gateway.other, "www/alt/web2", statuses[2]),
                              (gateway.one, "www/http/web1", statuses[3])):
        web.stop()
        gateway.wait_log(f"^{name} .*up -> down")
        gateway.wait_ready("www", status)
        assert gateway.rows("show", name)[0]["state"] == "down" and gateway.ready("www")[0] == status, name


def test_a_fallback_is_no_member_that_counts(gateway: Announced) -> None:
    """Whatever it serves, a gateway that has real members is better off."""
    gateway.setup(members=f"web1: {A}, sorry: {{address: {B}, fallback: yes}}")
    gateway.begin()
    gateway.one.stop()
    gateway.wait_targets(B)
    gateway.wait_ready("www", 1)
    assert gateway.ready("www")[1] == "www unready: http 0 of 1 up\n"


def test_not_before_the_first_verdicts_are_in(gateway: Announced) -> None:
    """One member that takes its time is waited for, although another is up already."""
    gateway.setup(members=f"web1: {A}, web2: {B}, slow: {C}")
    text = gateway.config.read_text().replace("check: tcp", "check: {type: http, path: /}", 1)
    gateway.config.write_text(re.sub("(timeout|interval): 500ms", r"\1: 10m", text))
    with socket.create_server((C, gateway.inside)):                 # it is connected to, and never answers
        gateway.start()
        wait("the others are up, and the table was read", lambda: gateway.targets() == [A, A, B])
        gateway.wait_ready("mail")
        assert gateway.ready("www") == (1, "www unready: not every endpoint has been checked yet\n", "")
        assert "unready www" not in gateway.events()
    gateway.wait_ready("www")


def test_not_before_the_table_was_read_nor_while_it_cannot_be(gateway: Announced) -> None:
    tool, broken = gateway.breakable()
    broken.touch()
    gateway.setup(ipfilter=f"{tool}\ntimeout: 1s")
    gateway.start()
    wait("all are up", lambda: set(gateway.states().values()) == {"up"})
    gateway.wait_log("^www unknown -> unready: ipnat: .*no such device")
    assert gateway.ready("www")[0] == 1
    broken.unlink()
    gateway.wait_ready("www")
    broken.touch()
    gateway.wait_ready("www", 1)
    assert "no such device" in gateway.ready("www")[1]
    broken.unlink()
    gateway.wait_ready("www")


def test_a_flush_that_is_mended_at_once_is_no_reason_to_move_an_address(gateway: Announced) -> None:
    gateway.begin()
    gateway.wait_ready("mail")
    before = gateway.events()
    gateway.kernel.ipnat("-C")
    gateway.wait_log("^3 rules were put back|rules? .*put back")
    gateway.wait_targets(A, A, B)
    gateway.setup(ipfilter="tag: other")
    assert gateway.ctl("reload")[0] == 0
    wait("rules with the other tag", lambda: gateway.kernel.ipnat("-l").stdout.count("tag other") == 3)
    assert gateway.ready()[0] == 0
    assert gateway.events() == before


def test_a_rule_that_ipnat_does_not_take_counts_for_its_cluster_only(gateway: Announced) -> None:
    words = " ".join(tool_words(gateway.kernel.path)["ipnat"])
    script = gateway.directory / "ipnat"
    script.write_text(f'#!/bin/sh\ncase "$*" in "-f -") ;; *) exec {words} "$@" ;; esac\ninput=$(cat)\n'
                      'case "$input" in *127.0.0.2/*) echo "1:ioctl(SIOCADNAT): not that one" >&2; exit 1 ;; esac\n'
                      f'printf "%s\\n" "$input" | {words} "$@"\n')
    script.chmod(0o755)
    gateway.setup(ipfilter=f"ipnat: {script}")
    gateway.start()
    gateway.wait_ready("www")
    assert gateway.ready("mail")[0] == 1
    wait("it is named", lambda: "mail unready: http has the rules of 0 members in the kernel: " in
         gateway.ready("mail")[1])
    gateway.wait_log("^ipnat: .*not that one; trying again", 1)
    wait("www in spite of that for longer than a moment", lambda: gateway.rows("ready", "www")[0]["seconds"] > 2)
    assert gateway.ready("www")[0] == 0 and not gateway.lines("^www .*-> unready")


def test_leave_and_join(gateway: Announced) -> None:
    gateway.begin()
    gateway.wait_ready("mail")
    rules = gateway.rules()
    assert gateway.ctl("leave", "www") == (0, "www unready: out of service by the operator, see l4ipctl join\n", "")
    assert gateway.ready()[0] == 1 and gateway.ready("mail")[0] == 0
    assert gateway.rows("ready", "www")[0]["left"] is True
    assert gateway.rules() == rules
    gateway.stop(signal.SIGKILL)
    gateway.start()
    gateway.wait_log("^still out of service by the operator: www$")
    gateway.wait_ready("mail")
    assert gateway.ready("www")[0] == 1
    assert gateway.ctl("leave")[0] == 0
    assert [row["left"] for row in gateway.rows("ready")] == [True, True]
    gateway.stop()
    gateway.start()
    wait("all are up again", lambda: set(gateway.states().values()) == {"up"})
    assert gateway.ready("mail")[0] == 1
    status, _, err = gateway.ctl("join", "www")
    assert (status, err) == (1, "l4ipctl: warning: the gateway as a whole is out of service: l4ipctl join\n")
    assert gateway.ctl("join")[0] == 0
    gateway.wait_ready("mail")
    gateway.wait_ready("www")
    assert gateway.rules() == rules


def test_a_start_says_ready_only_where_that_is_news(gateway: Announced) -> None:
    gateway.begin()
    gateway.wait_ready("mail")
    gateway.ctl("leave", "mail")
    for end in (signal.SIGTERM, signal.SIGKILL):
        wait("told", lambda: "unready mail" in gateway.events())
        gateway.stop(end)
        gateway.told.write_text("")
        gateway.start()
        wait("told again, for who may have forgotten", lambda: "unready mail" in gateway.events())
        gateway.wait_ready("www")
        gateway.wait_log("^www ready as before: ")
        assert gateway.events() == ["unready mail"]
    gateway.stop()
    gateway.told.write_text("")
    gateway.kernel.ipnat("-FC")                     # as after a reboot
    gateway.start()
    gateway.wait_ready("www")
    wait("told", lambda: sorted(gateway.events()) == ["ready www", "unready mail"])


def test_a_cluster_that_goes_takes_its_leave_with_it(gateway: Announced) -> None:
    gateway.begin()
    gateway.ctl("leave", "mail")
    text = gateway.config.read_text()
    gateway.config.write_text(re.sub("(?m)^  mail: .*$", "", text))
    assert gateway.ctl("reload")[0] == 0
    assert gateway.ready("mail")[0] == 2
    gateway.config.write_text(text)
    assert gateway.ctl("reload")[0] == 0
    gateway.wait_ready("mail")


def test_a_reload_that_adds_members_does_not_take_the_cluster_out(gateway: Announced) -> None:
    gateway.begin()
    gateway.setup(members=f"web1: {A}, web2: {B}, web3: {C}")
    assert gateway.ctl("reload")[0] == 0
    assert gateway.ready("www")[0] == 0
    wait("checked", lambda: all(row["code"] for row in gateway.rows("show")))
    assert "unready www" not in gateway.events()


@pytest.mark.parametrize("ready", ["all", "any"])
@pytest.mark.parametrize("members", [f"web1: {A}, web2: {B}", f"web3: {B}"], ids=["as before", "others"])
def test_a_reload_that_adds_a_service_does_not_take_the_cluster_out(gateway: Announced, ready: str,
                                                                    members: str) -> None:
    """Nobody has checked it yet, nor loaded its rules, and the other gateway has the same before it."""
    gateway.begin()
    gateway.alternative(f"{{services: {ready}}}", members=members)
    assert gateway.ctl("reload")[0] == 0
    assert gateway.ready("www")[0] == 0
    wait("checked", lambda: all(row["code"] for row in gateway.rows("show")))
    wait("loaded", lambda: any(f"port {gateway.alt}" in rule for rule in gateway.rules()))
    assert gateway.ready("www")[0] == 0 and "unready www" not in gateway.events()


def test_a_service_that_turns_out_to_have_nobody_takes_it_out(gateway: Announced) -> None:
    """Hope ends with the first outcome of the last one, whatever that is."""
    gateway.begin()
    gateway.other.stop()
    gateway.alternative("{services: all}")
    assert gateway.ctl("reload")[0] == 0
    gateway.wait_ready("www", 1)
    assert gateway.ready("www") == (1, "www unready: alt 0 of 2 up\n", "")


def test_a_reload_from_members_to_a_source_that_is_slow(gateway: Announced) -> None:
    members = gateway.directory / "members"
    members.write_text("{}\n")
    gateway.begin()
    here, source = f"members: {{web1: {A}, web2: {B}}}", f"members_from: [{{file: {members}}}]"
    gateway.config.write_text(gateway.config.read_text().replace(here, source))
    assert gateway.ctl("reload")[0] == 0
    assert gateway.ready("www")[0] == 0
    members.write_text(f"web1: {A}\n")
    wait("named", lambda: [row["endpoint"] for row in gateway.rows("show")].count("www/http/web1"))
    assert gateway.ready("www")[0] == 0 and "unready www" not in gateway.events()


def test_a_source_that_never_names_anybody_takes_it_out(gateway: Announced) -> None:
    gateway.begin()
    gone = gateway.directory / "gone"
    here, source = f"members: {{web1: {A}, web2: {B}}}", f"members_from: [{{file: {gone}}}]"
    gateway.config.write_text(gateway.config.read_text().replace(here, source))
    assert gateway.ctl("reload")[0] == 0
    gateway.wait_ready("www", 1)
    assert gateway.ready("www") == (1, "www unready: http has no members\n", "")


def test_carp_follows(gateway: Announced) -> None:
    """The sample notify program, with a sysctl that adds up, over restarts of the daemon and of the machine."""
    total, markers = gateway.directory / "demotion", gateway.directory / "markers"
    sysctl = gateway.directory / "sysctl"
    sysctl.write_text(f'#!/bin/sh\necho $(($(cat {total}) + ${{1#net.inet.carp.demotion=}})) > {total}.new\n'
                      f'mv {total}.new {total}\n')
    sysctl.chmod(0o755)
    total.write_text("0\n")
    gateway.notify.write_text(
        f"#!/bin/sh\nexport SYSCTL={sysctl} MARKERS={markers} L4IPCTL={gateway.directory}/l4ipctl\n"
        f'sh {ROOT}/etc/notify-carp.sample "$@"\necho "$1 $2" >> {gateway.told}\n')
    (gateway.directory / "l4ipctl").write_text(f"#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} -m "
                                               f'l4ipd.control.l4ipctl -s {gateway.socket} "$@"\n')
    (gateway.directory / "l4ipctl").chmod(0o755)

    def demoted(number: int, *events: str) -> None:
        wait(f"{events}, {gateway.events()}\n{gateway.text()}", lambda: set(events) <= {*gateway.events()})
        wait(f"demoted {number}, {total.read_text()}", lambda: int(total.read_text()) == number)
        gateway.told.write_text("")

    gateway.start()
    demoted(0, "ready www", "ready mail")
    gateway.one.stop()
    demoted(240, "unready mail")
    gateway.ctl("leave", "www")
    demoted(480, "unready www")
    for end in (signal.SIGTERM, signal.SIGKILL):
        gateway.stop(end)
        gateway.start()
        demoted(480, "unready www", "unready mail")
    gateway.stop()
    total.write_text("0\n")                         # the machine was started anew
    shutil.rmtree(markers)
    gateway.start()
    demoted(480, "unready www", "unready mail")
    gateway.ctl("join")
    demoted(240, "ready www")
    gateway.config.write_text(re.sub("(?m)^  mail: .*$", "", gateway.config.read_text()))
    assert gateway.ctl("reload")[0] == 0
    wait("what is gone demotes no more", lambda: int(total.read_text()) == 0)


def test_a_cluster_whose_source_names_nobody(gateway: Announced) -> None:
    members = gateway.directory / "members"
    members.write_text("{}\n")
    gateway.setup()
    here, source = f"members: {{web1: {A}, web2: {B}}}", f"members_from: [{{file: {members}}}]"
    gateway.config.write_text(gateway.config.read_text().replace(here, source))
    gateway.start()
    gateway.wait_ready("mail")
    assert gateway.ready("www") == (1, "www unready: http has no members\n", "")
    members.write_text(f"web1: {A}\n")
    gateway.wait_ready("www")
    assert not gateway.lines("internal error")
