"""Configurations for tests: one with every key, and the smallest one, of which any part can be another."""

from __future__ import annotations

SAMPLE = """\
pidfile: /var/run/l4ip.pid
control: /var/run/l4ip.sock        # for l4ipctl; mode 0600
state: /var/db/l4ip/state.json     # what was up, what the operator disabled
log: {facility: daemon, level: info}
http: no                           # or 127.0.0.1:8089: status page, /metrics, /status.json, /healthz
notify: []                         # [/path/of/a/program, its, arguments]: run at every transition

ipfilter:
  interface: em0                   # where clients come in: the rdr rules are on it
  tag: l4ip                        # marks the rules as ours (at most 12 characters); `no` where IPFilter has no tags
  resync: 10s                      # how often to read the kernel's table back
  on_stop: keep                    # keep | remove our rules when the daemon stops
  purge: yes                       # end the sessions of an endpoint that goes down (ipnat -p), where ipnat can
  timeout: 5s                      # longest run of one tool
  ipnat: /sbin/ipnat               # each tool: a path, or a list of words; by default searched in PATH and
  ipf: /sbin/ipf                   # /sbin /usr/sbin /usr/local/sbin
  ipfstat: /sbin/ipfstat
  ipmon: /usr/sbin/ipmon

resets:                            # sensing RST packets; off unless this section is there
  interface: em1                   # where the members' packets come in
  source: ipmon                    # ipmon | counters | /path/of/a/log/file that the system's own ipmon writes
  action: refused                  # refused | any | check
  tag: 4711                        # set-tag(log=N) of our ipf rules

defaults: {interval: 5s, timeout: 2s, rise: 2, fall: 3}

clusters:
  www:
    address: 203.0.113.10          # IPv4 or IPv6, or a list of them
    services:
      http:
        port: 80
        protocol: tcp              # tcp (default) | udp
        member_port: 8080          # default: port
        sticky: no
        check: {type: http, path: /healthz, status: 200-299, interval: 2s}
      https: {port: 443, check: {type: https, path: /healthz, verify: /etc/ssl/ca.pem}}
    members:
      web1: 10.0.0.11
      web2: {address: 10.0.0.12, weight: 2}
      sorry: {address: 10.0.0.99, fallback: yes}   # used only while no other member of the service is up
    when_all_down: remove          # remove | keep: with nobody up, drop the last rules or leave them (fail open)
"""
IPFILTER = "ipfilter: {interface: em0}"             # the lines of a small configuration
ADDRESS = "address: 203.0.113.1"
SERVICES = "s: {port: 80}"
MEMBERS = "members: {m: 10.0.0.1}"


def small(ipfilter: str = IPFILTER, address: str = ADDRESS, services: str = SERVICES, members: str = MEMBERS,
          more: str = "") -> str:
    return f"{ipfilter}\nclusters:\n  c:\n    {address}\n    services:\n      {services}\n    {members}\n{more}"


def with_check(check: str) -> str:
    return small(services=f"s: {{port: 80, check: {check}}}")
