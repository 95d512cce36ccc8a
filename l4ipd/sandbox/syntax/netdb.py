"""Names and numbers of services and protocols.

A few are known here, so that the samples hold on machines without /etc/services. Names of hosts are not known at all:
l4ip writes none, and the sandbox never waits for a name server.
"""

from __future__ import annotations

import functools
import socket

SERVICES = {"ftp": 21, "ssh": 22, "smtp": 25, "domain": 53, "http": 80, "pop3": 110, "ntp": 123, "imap": 143,
            "snmp": 161, "ldap": 389, "https": 443, "imaps": 993, "mysql": 3306, "postgresql": 5432, "http-alt": 8080}
PROTOCOLS = {"ip": 0, "icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "udp": 17, "ipv6": 41, "gre": 47, "esp": 50,
             "ah": 51, "ipv6-icmp": 58, "icmpv6": 58, "ospf": 89}
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_SERVICE_OF = {port: name for name, port in SERVICES.items()}
_PROTOCOL_OF = {number: name for name, number in reversed(PROTOCOLS.items())}


def port_number(name: str) -> int | None:
    if name in SERVICES:
        return SERVICES[name]
    try:
        return socket.getservbyname(name)
    except OSError:
        return None


@functools.lru_cache(4096)
def port_name(port: int, proto: int) -> str:
    """The service of a port, or its number."""
    if port in _SERVICE_OF:
        return _SERVICE_OF[port]
    try:
        return socket.getservbyport(port, "udp" if proto == UDP else "tcp")
    except OSError:
        return str(port)


def protocol_number(name: str) -> int | None:
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    try:
        return socket.getprotobyname(name)
    except OSError:
        return None


def protocol_name(number: int) -> str:
    return _PROTOCOL_OF.get(number, str(number))
