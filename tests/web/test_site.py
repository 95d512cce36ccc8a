"""The HTTP side of a real daemon: what its pages say, when it is healthy, and that a reload moves it."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.gateway import Gateway, free_port, wait
from support.sandbox_tools import Sandbox

A, B = "127.0.0.11", "127.0.0.12"
REFUSED = 0                                         # in the place of a status


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    kernel.ipnat("-FC")
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()


CLUSTER = f"""
        www:
          address: 127.0.0.1
          services: {{{{http: {{{{port: {{port}}, member_port: {{inside}}, check: {{{{type: http, path: /}}}}}}}}}}}}
          members: {{{{web1: {A}, web2: {{{{address: {B}, weight: 2}}}}}}}}
        """


def configure(gateway: Gateway, inside: int, where: str, port: int, **more: str) -> None:
    gateway.configure(CLUSTER.format(port=port, inside=inside), top=f"http: '{where}'", **more)


def get(port: int, path: str, address: str = "127.0.0.1", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    """(status, body, headers) of an answer."""
    connection = http.client.HTTPConnection(address, port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    except ConnectionError:
        return REFUSED, "", http.client.HTTPMessage()
    finally:
        connection.close()


def endpoints(port: int) -> dict[str, Any]:
    return {each["endpoint"]: each for each in json.loads(get(port, "/status.json")[1])["endpoints"]}


def test_pages(gateway: Gateway) -> None:
    site, inside, port = free_port(), free_port(), free_port()
    gateway.web(A, inside)
    two = gateway.web(B, inside)
    configure(gateway, inside, f"127.0.0.1:{site}", port)
    gateway.start()
    gateway.wait_targets(A, B, B)
    wait("healthz", lambda: get(site, "/healthz")[:2] == (200, "ok\n"))
    with socket.create_connection(("127.0.0.1", port)):
        wait("it is counted", lambda: sum(each["connections"] or 0 for each in endpoints(site).values()) == 1)
    two.status = 503
    gateway.wait_targets(A)
    wait("it is noticed", lambda: endpoints(site)["www/http/web2"]["rule"] == "no")
    up, down = endpoints(site).values()
    assert (up["endpoint"], up["state"], up["rule"], up["code"]) == ("www/http/web1", "up", "yes", "L7OK")
    assert (down["address"], down["up"], down["verdict"]) == (f"{B}:{inside}", False, "L7STS 503 Service Unavailable")

    status, text, headers = get(site, "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = {sample.labels["member"]: sample.value for sample in families["l4ip_endpoint_up"].samples}
    assert values == {"web1": 1, "web2": 0}
    assert {"l4ip_build_info", "l4ip_tool_runs", "l4ip_resets", "process_cpu_seconds"} <= families.keys()
    assert sum(sample.value for sample in families["l4ip_tool_runs"].samples) > 0

    status, text, headers = get(site, "/")
    assert status == 200 and "www/http/web2 127.0.0.12" in text and "up -&gt; down" in text
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert headers["Cache-Control"] == "no-store"
    assert get(site, "/?match=web1")[1].count("<tr id=") == 1
    assert get(site, "/nowhere")[0] == 404
    assert get(site, "/", Host="evil.example")[0] == 421
    assert gateway.stop() == 0
    assert get(site, "/")[0] == REFUSED


def own_address() -> str:
    """An address of this machine that is not on loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return ""


def test_names_are_ours_or_configured_wherever_it_listens(gateway: Gateway) -> None:
    """A name that a stranger has given our address makes a visitor's browser ask us."""
    address, site = own_address(), free_port()
    if not address or address.startswith("127."):
        pytest.skip("there is no address but on loopback")
    inside, port = free_port(), free_port()
    where = f"{{listen: '{address}:{site}', names: [Gw.example.net]}}"
    gateway.configure(CLUSTER.format(port=port, inside=inside), top=f"http: {where}")
    gateway.start()
    wait("there", lambda: get(site, "/healthz", address)[0] != REFUSED)
    for name, status in (("evil.example", 421), ("gw.example.net:80", 200), (address, 200), ("localhost", 200),
                         (socket.gethostname(), 200), ("www.gw.example.net", 421)):
        assert get(site, "/", address, Host=name)[0] == status, name
    assert "list it in http.names" in get(site, "/", address, Host="evil.example")[1]
    gateway.configure(CLUSTER.format(port=port, inside=inside), top=f"http: {where.replace('Gw', 'other')}")
    gateway.send(signal.SIGHUP)
    wait("other names", lambda: get(site, "/", address, Host="other.example.net")[0] == 200)
    assert get(site, "/", address, Host="gw.example.net")[0] == 421
    assert len(gateway.lines("http: status page at")) == 1, "it goes on listening"


def test_healthz_says_why_not(gateway: Gateway) -> None:
    site, inside = free_port(), free_port()
    configure(gateway, inside, f"127.0.0.1:{site}", free_port(), ipfilter="ipnat: /nonexistent/ipnat")
    gateway.start()
    wait("healthz", lambda: get(site, "/healthz")[0] == 503 and "no such program" in get(site, "/healthz")[1])
    assert "/nonexistent/ipnat: no such program" in get(site, "/")[1]
    assert json.loads(get(site, "/status.json")[1])["fit"] is False


def test_a_reload_moves_it_and_an_address_that_is_taken_is_no_reason_to_stop(gateway: Gateway) -> None:
    site, inside, port = free_port(), free_port(), free_port()
    gateway.web(A, inside)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        configure(gateway, inside, f"127.0.0.1:{taken}", port)
        gateway.start()
        gateway.wait_log(f"http: 127.0.0.1:{taken}: cannot listen there: {os.strerror(errno.EADDRINUSE)}; trying again")
        gateway.wait_targets(A)
        move(gateway, inside, f"127.0.0.1:{site}", port)
        wait("there", lambda: get(site, "/healthz")[0] == 200)
        move(gateway, inside, f"{A}:{site}", port)
        wait("elsewhere", lambda: get(site, "/healthz", A)[0] == 200)
        assert get(site, "/")[0] == REFUSED, "no longer where it was"
        move(gateway, inside, "no", port)
        wait("off", lambda: get(site, "/healthz", A)[0] == REFUSED)


def move(gateway: Gateway, inside: int, where: str, port: int) -> None:
    configure(gateway, inside, where, port)
    gateway.send(signal.SIGHUP)


@pytest.mark.skipif(not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"), reason="there is no IPv6 here")
def test_ipv6(gateway: Gateway) -> None:
    site = free_port()
    configure(gateway, free_port(), f"[::1]:{site}", free_port())
    gateway.start()
    wait("there", lambda: get(site, "/status.json", "::1")[0] == 200)
    assert get(site, "/", "::1", Host="evil.example")[0] == 421


def test_it_costs_nothing_while_it_is_off() -> None:
    loaded = subprocess.run([sys.executable, "-c", "import l4ipd.main, sys; print(*sys.modules)"], capture_output=True,
                            text=True, check=True).stdout.split()
    assert "l4ipd.web" in loaded
    assert not {"prometheus_client", "l4ipd.page", "l4ipd.httpd", "l4ipd.metrics"} & set(loaded)
