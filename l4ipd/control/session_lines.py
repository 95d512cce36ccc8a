"""What `l4ipctl sessions` answers: the sessions of endpoints one by one, or how many each has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from l4ipd.control.server import Answer, Client, end
from l4ipd.daemon import Daemon
from l4ipd.ipfilter.session_count import Count
from l4ipd.ipfilter.session_list import ListReader, Session
from l4ipd.ipfilter.session_reading import Reading
from l4ipd.model import host_port
from l4ipd.monitor.monitor import Monitor
from l4ipd.report.text import ago, printable


def answer(daemon: Daemon, client: Client, chosen: Sequence[Monitor], numbers: bool) -> None:
    """Ask the kernel, and tell the client; exit 1 if it cannot say."""
    if numbers:
        daemon.sessions.want(client.later(lambda count: client.answer(_numbers(chosen, count))))
        return
    endpoints = [monitor.endpoint for monitor in chosen]
    Reading(daemon.loop, daemon.steering.nat, "-lv", lambda: ListReader(endpoints),
            client.later(lambda reader, problem: client.answer(_one_by_one(reader, problem))))


def _numbers(chosen: Sequence[Monitor], count: Count) -> Iterator[Answer]:
    if count.problem:                               # an old number would be taken for a new one
        yield end(1, error=[f"sessions cannot be counted: {printable(count.problem)}"])
        return
    total = 0
    for monitor in chosen:
        endpoint, number = monitor.endpoint, count.of(monitor.endpoint.name)
        total += number or 0
        shown = "-" if number is None else number   # it came with a reload, a moment ago
        yield {"endpoint": endpoint.name, "address": endpoint.where, "sessions": number,
               "text": f"{shown:>7} {endpoint.name} {endpoint.where}"}
    yield end(0, summary=[f"sessions: {total} of {len(chosen)} endpoints; {count.total} in the kernel's table"])


def _one_by_one(reader: ListReader | None, problem: str) -> Iterator[Answer]:
    if reader is None:
        yield end(1, error=[f"sessions cannot be listed: {printable(problem)}"])
        return
    for session in reader.sessions():
        yield {"endpoint": session.endpoint.name, "client": session.client, "client_port": session.client_port,
               "vip": session.vip, "vip_port": session.vip_port, "member": session.member,
               "member_port": session.member_port, "protocol": session.protocol, "seconds_left": session.left,
               "text": _words(session)}
    yield end(0)


def _words(session: Session) -> str:
    left = "" if session.left is None else f", {ago(session.left)} left"
    return (f"{session.endpoint.name} {host_port(session.client, session.client_port)} -> "
            f"{host_port(session.vip, session.vip_port)} -> {host_port(session.member, session.member_port)} "
            f"{session.protocol}{left}")
