"""What the configuration refuses: every rule of it, word for word, with file, line and path."""

from __future__ import annotations

import pytest

from l4ipd.config.parse import ConfigError, parse
from support.configurations import SAMPLE, small, with_check


def errors(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "l4ip.conf")
    assert str(caught.value) == "\n".join(caught.value.errors)
    return list(caught.value.errors)


#: a file, and its errors after the file's name
FILES: list[tuple[str | bytes, list[str]]] = [
    ("", ["1: the file is empty: ipfilter and clusters are needed"]),
    (b'', ["1: the file is empty: ipfilter and clusters are needed"]),
    ("# nothing\n", ["1: the file is empty: ipfilter and clusters are needed"]),
    ("---\n", ["1: the file is empty: ipfilter and clusters are needed"]),
    ("~", ["1: the file is empty: ipfilter and clusters are needed"]),
    ("[]", ["1: the file is not a mapping: it begins with keys such as ipfilter: and clusters:"]),
    ("- a", ["1: the file is not a mapping: it begins with keys such as ipfilter: and clusters:"]),
    ("x", ["1: the file is not a mapping: it begins with keys such as ipfilter: and clusters:"]),
    (b'a: 1\nb: \xff\n', ["2: not UTF-8: byte 0xff"]),
    ("a: 1\nb: \0\n", ["2: character U+0000 may not stand in a YAML file, only as an escape in double quotes"]),
    ("a: \x1b[0m", ["1: character U+001B may not stand in a YAML file, only as an escape in double quotes"]),
    ("a: \ud800", ["1: character U+D800 may not stand in a YAML file, only as an escape in double quotes"]),
    ("a: 1\n---\nb: 2\n", ["2: a second document begins here: one file, one document"]),
    ("a: *x\n", ["1: a: no anchor &x before this *x; put text that begins with * in quotes"]),
    ("a: &x [*x]\n", ["1: a[1]: *x stands inside what it names, and has no end"]),
    ("a: &x {<<: *x}\n", ["1: a.<<: *x stands inside what it names, and has no end"]),
    ("? [a]\n: 1\n", ["1: ?: a key must be a word, not a list or a mapping"]),
    ("? {a: 1}\n: 1\n", ["1: ?: a key must be a word, not a list or a mapping"]),
    ("clusters: !!python/object:os.system x\n",
     ["1: clusters: the YAML tag tag:yaml.org,2002:python/object:os.system is not understood; leave it out",
      "1: ipfilter.interface: is missing: where clients come in, the rdr rules are on it",
      "1: clusters: a mapping of names to clusters is wanted, not x"]),
    ("!foo {}\n",
     ["1: the YAML tag !foo is not understood; leave it out",
      "1: ipfilter.interface: is missing: where clients come in, the rdr rules are on it",
      "1: clusters: is missing: at least one cluster, with its address, services and members"]),
    ("clusters: {<<: 3}\n",
     ["1: clusters.<<: only a mapping, or a list of mappings, can be merged",
      "1: ipfilter.interface: is missing: where clients come in, the rdr rules are on it",
      "1: clusters: is empty: a mapping of names to clusters is wanted, with one at least"]),
    ("clusters: {<<: [3]}\n",
     ["1: clusters.<<: only a mapping, or a list of mappings, can be merged",
      "1: ipfilter.interface: is missing: where clients come in, the rdr rules are on it",
      "1: clusters: is empty: a mapping of names to clusters is wanted, with one at least"]),
    ("{}",
     ["1: ipfilter.interface: is missing: where clients come in, the rdr rules are on it",
      "1: clusters: is missing: at least one cluster, with its address, services and members"]),
    ("clusters: {}\nipfilter: {}\n",
     ["1: clusters: is empty: a mapping of names to clusters is wanted, with one at least",
      "2: ipfilter.interface: is missing: where clients come in, the rdr rules are on it"]),
    ("ipfilter: {interface: em0}\nclusters:\n",
     ["2: clusters: is empty: a mapping of names to clusters is wanted, with one at least"]),
    ("ipfilter: {interface: em0}\nclusters: {c: }\n",
     ["2: clusters.c.address: is missing: the IPv4 or IPv6 address that clients connect to, or a list of them",
      "2: clusters.c.services: is missing: a mapping of names to services",
      "2: clusters.c.members: is missing: a mapping of names to addresses, or members_from"]),
    ("ipfilter: {interface: em0}\nclusters: {c: {}}\n",
     ["2: clusters.c.address: is missing: the IPv4 or IPv6 address that clients connect to, or a list of them",
      "2: clusters.c.services: is missing: a mapping of names to services",
      "2: clusters.c.members: is missing: a mapping of names to addresses, or members_from"]),
    ("ipfilter: {interface: em0}\nclusters: {c: {address: , services: , members: }}\n",
     ["2: clusters.c.address: has no value: the address that clients connect to, or a list of them",
      "2: clusters.c.services: is empty: a mapping of names to services is wanted, with one at least",
      "2: clusters.c.members: is empty: a mapping of names to addresses is wanted, with one at least"]),
    ("ipfilter: em0\nclusters: [a]\n",
     ["1: ipfilter: a mapping with interface, tag, resync, on_stop, purge, timeout, ipnat, ipf, ipfstat, ipmon "
      "is wanted, not em0",
      "2: clusters: a mapping of names to clusters is wanted, not a list"]),
    ('clutsers: {}\nzzz: 1\nhttp: 1\nhttp: 2\n"a\\nb\\e": 1\n',
     ["1: clutsers: unknown key, did you mean clusters?",
      "1: ipfilter.interface: is missing: where clients come in, the rdr rules are on it",
      "1: clusters: is missing: at least one cluster, with its address, services and members",
      "2: zzz: unknown key; known here: include, pidfile, control, state, log, http, notify, ipfilter, resets, "
      "defaults, clusters",
      "3: http: 1 is not no or ADDRESS:PORT, such as 127.0.0.1:8089",
      "4: http: given twice; the first one is on line 3",
      "5: a\\nb\\x1b: unknown key; known here: include, pidfile, control, state, log, http, notify, ipfilter, resets, "
      "defaults, clusters"]),
    ("ipfilter: {interface: em0}\nclusters:\n  c:\n    address: 203.0.113.1\n    services:\n      s: {port: "
     "80, port: 81}\n    members: {m: 10.0.0.1}\n",
     ["6: clusters.c.services.s.port: given twice; the first one is on line 6"]),
    ("clusters:\n  c: {}\n  d: {}\n  c: {}\n",
     ["1: ipfilter.interface: is missing: where clients come in, the rdr rules are on it",
      "2: clusters.c.address: is missing: the IPv4 or IPv6 address that clients connect to, or a list of them",
      "2: clusters.c.services: is missing: a mapping of names to services",
      "2: clusters.c.members: is missing: a mapping of names to addresses, or members_from",
      "3: clusters.d.address: is missing: the IPv4 or IPv6 address that clients connect to, or a list of them",
      "3: clusters.d.services: is missing: a mapping of names to services",
      "3: clusters.d.members: is missing: a mapping of names to addresses, or members_from",
      "4: clusters.c: given twice; the first one is on line 2"]),
]

#: a line after a small configuration, and its errors after line 8
TOP_ERRORS: list[tuple[str, list[str]]] = [
    ("http: 8089", ["http: 8089 is not no or ADDRESS:PORT, such as 127.0.0.1:8089"]),
    ("http: localhost:80", ["http: localhost is not a numeric address: write it as 127.0.0.1:8089"]),
    ("http: ::1:80", ['http: ::1:80: an IPv6 address needs brackets, and then quotes: "[::1]:8089"']),
    ("http: 1.2.3.4", ["http: 1.2.3.4 is not no or ADDRESS:PORT, such as 127.0.0.1:8089"]),
    ("http: 1.2.3.4:0", ["http: 0 is not a port (1-65535)"]),
    ("http: yes", ["http: yes is not no or ADDRESS:PORT, such as 127.0.0.1:8089"]),
    ("http: 224.0.0.1:80", ["http: 224.0.0.1 is a multicast address, nothing can listen on it"]),
    ("http: [a]", ["http: one value is wanted, not a list"]),
    ("http: {names: [a]}", ["http.listen: is missing: ADDRESS:PORT, such as 127.0.0.1:8089"]),
    ("http: {listen: a, names: ['a:80', '*.b', '']}",
     ["http.listen: a is not no or ADDRESS:PORT, such as 127.0.0.1:8089",
      "http.names[1]: a:80 is not the name of a machine, without a port",
      "http.names[2]: *.b is not the name of a machine, without a port",
      "http.names[3]: '' is not the name of a machine, without a port"]),
    ("http: {listen: '127.0.0.1:1', name: a}", ["http.name: unknown key, did you mean names?"]),
    ("http:", ["http: has no value: give it one, or leave the key out"]),
    ("control: run/x", ["control: run/x is not an absolute path"]),
    ("control: /" + 103 * "x",
     ["control: /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx... is too long for a socket (at most "
      "103 bytes)"]),
    ("control: {path: x, group: 'a b', mode: 3}",
     ["control.mode: unknown key; known here: path, group",
      "control.path: x is not an absolute path",
      "control.group: 'a b' is not the name of a user or group"]),
    ("control: [/x]", ["control: one value is wanted, not a list"]),
    ("pidfile: l4ip.pid", ["pidfile: l4ip.pid is not an absolute path"]),
    ('state: "/a\\nb"', ["state: '/a\\nb' is too long for a path, or has unprintable characters"]),
    ("state: {}", ["state: one value is wanted, not a mapping"]),
    ("log: info", ["log: a mapping with facility, level is wanted, not info"]),
    ("log: {facility: local8, level: verbose, x: 1}",
     ["log.x: unknown key; known here: facility, level",
      "log.facility: local8 is not one of kern, user, mail, daemon, auth, syslog, lpr, news, uucp, cron, "
      "authpriv, ftp, local0, local1, local2, local3, local4, local5, local6, local7",
      "log.level: verbose is not one of emerg, alert, crit, err, warning, notice, info, debug"]),
    ("notify: n", ["notify: n is not an absolute path"]),
    ("notify: [n]", ["notify[1]: n is not an absolute path"]),
    ("notify: /bin/n a",
     ["notify: '/bin/n a' has blanks: write a list of words, as in [/bin/n, a]; there is no shell"]),
    ("notify: [/bin/n, [a]]", ["notify[2]: one value is wanted, not a list"]),
    ("notify: {a: 1}", ["notify: one value is wanted, not a mapping"]),
    ('notify: [/bin/n, "a\\0"]', ["notify[2]: a NUL character cannot be passed to a program"]),
    ("resets: {}", ["resets.interface: is missing: where the members' packets come in"]),
    ("resets:", ["resets.interface: is missing: where the members' packets come in"]),
    ("resets: {interface: '*'}",
     ["resets.interface: * is not the name of an interface (a letter, then letters, digits and _ . -, at most "
      "15 in all)"]),
    ("resets: {interface: em1, source: ipfmon, action: down, tag: 0}",
     ["resets.source: ipfmon is not ipmon, counters or the absolute path of a log file",
      "resets.action: down is not one of refused, any, check",
      "resets.tag: 0 is not a number (1-2147483647)"]),
    ("resets: {interface: em1, tag: 2147483648}", ["resets.tag: 2147483648 is not a number (1-2147483647)"]),
    ("resets: yes", ["resets: a mapping with interface, source, action, tag is wanted, not yes"]),
    ("defaults: {interval: 0, timeout: 1d, rise: 0, fall: 101, path: /}",
     ["defaults.path: unknown key; known here: interval, timeout, rise, fall, fast_interval, down_interval, purge, "
      "source, flap",
      "defaults.interval: 0 is out of range (50ms-24h)",
      "defaults.timeout: 1d is not a duration (500ms, 2s, 1m, 1h, or a number of seconds)",
      "defaults.rise: 0 is not a number of probes (1-100)",
      "defaults.fall: 101 is not a number of probes (1-100)"]),
    ("defaults: {timeout: 6s}", ["defaults.timeout: 6s is longer than the interval it runs in, 5s"]),
    ("defaults: {interval: 1s, timeout: 2s}", ["defaults.timeout: 2s is longer than the interval it runs in, 1s"]),
    ("defaults: 5s",
     ["defaults: a mapping with interval, timeout, rise, fall, fast_interval, down_interval, purge, source, "
      "flap is wanted, not 5s"]),
    ("defaults: {flap: yes}", ["defaults.flap: is {changes: 6, within: 5m}, or one of both, or no"]),
    ("defaults: {flap: [6, 5m]}", ["defaults.flap: is {changes: 6, within: 5m}, or one of both, or no"]),
    ("defaults: {flap: }", ["defaults.flap: is {changes: 6, within: 5m}, or one of both, or no"]),
    ("defaults: {flap: {changes: 1, within: 2d, for: 30s}}",
     ["defaults.flap.for: unknown key; known here: changes, within",
      "defaults.flap.changes: 1 is not a number of changes (2-1000)",
      "defaults.flap.within: 2d is not a duration (500ms, 2s, 1m, 1h, or a number of seconds)"]),
    ("pid_file: /x", ["pid_file: unknown key, did you mean pidfile?"]),
    ("foo: 1",
     ["foo: unknown key; known here: include, pidfile, control, state, log, http, notify, ipfilter, resets, defaults, "
      "clusters"]),
    ("HTTP: no", ["HTTP: unknown key, did you mean http?"]),
    ("http: ~", ["http: has no value: give it one, or leave the key out"]),
]

#: what follows the interface, and its errors after line 1: ipfilter.
IPFILTER_ERRORS: list[tuple[str, list[str]]] = [
    ("tag: abcdefghijklm",
     ["tag: abcdefghijklm is not no, nor a tag (a letter, then letters, digits and _ . -, at most 12 in all)"]),
    ("tag: l4ip.2", ["tag: l4ip.2 ends in a dot and digits, as only the tags that weights make of it may"]),
    ("tag: 4711", ["tag: 4711 is not no, nor a tag (a letter, then letters, digits and _ . -, at most 12 in all)"]),
    ("tag: a b", ["tag: 'a b' is not no, nor a tag (a letter, then letters, digits and _ . -, at most 12 in all)"]),
    ("tag: yes", ["tag: yes is no tag: a word that marks our rules, such as l4ip, or no"]),
    ("tag: On", ["tag: On is no tag: a word that marks our rules, such as l4ip, or no"]),
    ("tag: Sticky", ["tag: Sticky is a word of ipnat's own: choose another tag"]),
    ("tag: yes please",
     ["tag: 'yes please' is not no, nor a tag (a letter, then letters, digits and _ . -, at most 12 in all)"]),
    ("tag: ~", ["tag: has no value: give it one, or leave the key out"]),
    ("resync: 1:30", ["resync: 1:30 is not a duration (500ms, 2s, 1m, 1h, or a number of seconds)"]),
    ("resync: 10x", ["resync: 10x is not a duration (500ms, 2s, 1m, 1h, or a number of seconds)"]),
    ("resync: 1e3", ["resync: 1e3 is not a duration (500ms, 2s, 1m, 1h, or a number of seconds)"]),
    ("resync: 25h", ["resync: 25h is out of range (50ms-24h)"]),
    ("resync: -1", ["resync: -1 is not a duration (500ms, 2s, 1m, 1h, or a number of seconds)"]),
    ("timeout: 0", ["timeout: 0 is out of range (50ms-1h)"]),
    ("on_stop: leave", ["on_stop: leave is not one of keep, remove"]),
    ("purge: maybe", ["purge: maybe is not one of dead, yes, no"]),
    ("ipnat: /sbin/ipnat -v",
     ["ipnat: '/sbin/ipnat -v' has blanks: write a list of words, as in [/sbin/ipnat, -v]; there is no shell"]),
    ("ipnat: ./ipnat", ["ipnat: ./ipnat is not an absolute path, nor the bare name of a program"]),
    ("ipnat: []", ["ipnat: is empty: a path, a bare name, or a list of words"]),
    ("ipnat: [/sbin/ipnat, {}]", ["ipnat[2]: one value is wanted, not a mapping"]),
    ("ipnat: '-x'", ["ipnat: -x is not an absolute path, nor the bare name of a program"]),
    ("interfaces: em1", ["interfaces: unknown key, did you mean interface?"]),
    ("ipnat: {}", ["ipnat: one value is wanted, not a mapping"]),
    ("ipf: ''", ["ipf: '' is not an absolute path, nor the bare name of a program"]),
]

#: an interface, and its errors after line 1: ipfilter.
INTERFACE_ERRORS: list[tuple[str, list[str]]] = [
    ("no way",
     ["interface: 'no way' is not the name of an interface (a letter, then letters, digits and _ . -, at most "
      "15 in all)"]),
    ("em0:1",
     ["interface: em0:1 is not the name of an interface (a letter, then letters, digits and _ . -, at most 15 "
      "in all)"]),
    ("0em",
     ["interface: 0em is not the name of an interface (a letter, then letters, digits and _ . -, at most 15 in "
      "all)"]),
    ("tcp", ["interface: tcp is a word of ipnat's own, no interface can be named so"]),
    ("[em0]", ["interface: one value is wanted, not a list"]),
    ("''",
     ["interface: '' is not the name of an interface (a letter, then letters, digits and _ . -, at most 15 in "
      "all)"]),
    ("toolonginterface",
     ["interface: toolonginterface is not the name of an interface (a letter, then letters, digits and _ . -, "
      "at most 15 in all)"]),
    ("em0;",
     ["interface: em0; is not the name of an interface (a letter, then letters, digits and _ . -, at most 15 "
      "in all)"]),
]

#: the address of a cluster, and its errors after the file's name
ADDRESS_ERRORS: list[tuple[str, list[str]]] = [
    ("www.example.org",
     ["4: clusters.c.address: www.example.org is a host name: write its address, for ipnat accepts a name that "
      "it cannot resolve and then loads a rule for every address"]),
    ("10.0.0.0/24", ["4: clusters.c.address: 10.0.0.0/24 is a network: one address is wanted, without a mask"]),
    ("10.0.0.1:80",
     ["4: clusters.c.address: 10.0.0.1:80 is not an address alone: a port is written as port or member_port"]),
    ("'[::1]:80'",
     ["4: clusters.c.address: [::1]:80 is not an address alone: a port is written as port or member_port"]),
    ("0.0.0.0",
     ["4: clusters.c.address: 0.0.0.0 is the unspecified address: a rule needs the address of one machine"]),
    ("'::'", ["4: clusters.c.address: :: is the unspecified address: a rule needs the address of one machine"]),
    ("224.0.0.1",
     ["4: clusters.c.address: 224.0.0.1 is a multicast address: a rule needs the address of one machine"]),
    ("'ff02::1'",
     ["4: clusters.c.address: ff02::1 is a multicast address: a rule needs the address of one machine"]),
    ("255.255.255.255",
     ["4: clusters.c.address: 255.255.255.255 is the broadcast address: a rule needs the address of one machine"]),
    ("0.1.2.3", ["4: clusters.c.address: 0.1.2.3 is in network 0, which has no machines"]),
    ("'::ffff:10.0.0.1'", ["4: clusters.c.address: ::ffff:10.0.0.1 is an IPv4 address in disguise: write 10.0.0.1"]),
    ("fe80::1",
     ["4: clusters.c.address: fe80::1 is link-local: it means nothing without an interface, which a rule "
      "cannot name"]),
    ("'fe80::1%em0'",
     ["4: clusters.c.address: fe80::1%em0 is scoped: a rule cannot name an interface with an address, leave % "
      "and the rest out"]),
    ("2001:db8::1%em0",
     ["4: clusters.c.address: 2001:db8::1%em0 is scoped: a rule cannot name an interface with an address, "
      "leave % and the rest out"]),
    ("10", ["4: clusters.c.address: 10 is not an IPv4 or IPv6 address"]),
    ("256.1.1.1", ["4: clusters.c.address: 256.1.1.1 is not an IPv4 or IPv6 address"]),
    ("010.0.0.1", ["4: clusters.c.address: 010.0.0.1 is not an IPv4 or IPv6 address"]),
    ("1.2.3", ["4: clusters.c.address: 1.2.3 is not an IPv4 or IPv6 address"]),
    ("''", ["4: clusters.c.address: '' is not an IPv4 or IPv6 address"]),
    ("", ["4: clusters.c.address: has no value: the address that clients connect to, or a list of them"]),
    ("[]", ["4: clusters.c.address: has no value: the address that clients connect to, or a list of them"]),
    ("[203.0.113.1, 203.0.113.1]", ["4: clusters.c.address[2]: 203.0.113.1 is given twice"]),
    ("[203.0.113.1, [203.0.113.2]]", ["4: clusters.c.address[2]: one value is wanted, not a list"]),
    ("{a: b}", ["4: clusters.c.address: one value is wanted, not a mapping"]),
    ("[203.0.113.1, 2001:db8::1]",
     ["4: clusters.c.address[2]: 2001:db8::1 is IPv6 and the cluster is IPv4, as its first address is: an rdr "
      "rule cannot cross, make two clusters"]),
    ("2001:db8::1",
     ["7: clusters.c.members.m: 10.0.0.1 is IPv4 and the cluster is IPv6, as its first address is: an rdr rule "
      "cannot cross, make two clusters"]),
]

#: the services, and their errors after the file's name
SERVICE_ERRORS: list[tuple[str, list[str]]] = [
    ("s: 80",
     ["6: clusters.c.services.s: a mapping with port, protocol, member_port, sticky, age, purge, flap, check is "
      "wanted, not 80"]),
    ("s: {}", ["6: clusters.c.services.s.port: is missing: the port that clients connect to"]),
    ("s: {port: 80, age: soon}", ["6: clusters.c.services.s.age: soon is not a duration (500ms, 2s, 1m, 1h, or a "
                                  "number of seconds)"]),
    ("s: {port: 80, age: 500ms}", ["6: clusters.c.services.s.age: 500ms is out of range (1s-120h)"]),
    ("s: {port: 80, age: 121h}", ["6: clusters.c.services.s.age: 121h is out of range (1s-120h)"]),
    ("s: {port: 80, age: 2500ms}", ["6: clusters.c.services.s.age: 2500ms is not a whole number of seconds"]),
    ("s: {port: 0}", ["6: clusters.c.services.s.port: 0 is not a port (1-65535)"]),
    ("s: {port: 70000}", ["6: clusters.c.services.s.port: 70000 is not a port (1-65535)"]),
    ("s: {port: 0o80}", ["6: clusters.c.services.s.port: 0o80 is not a port (1-65535)"]),
    ("s: {port: 080}", ["6: clusters.c.services.s.port: 080 is not a port (1-65535)"]),
    ("s: {port: +80}", ["6: clusters.c.services.s.port: +80 is not a port (1-65535)"]),
    ("s: {port: 1:20}", ["6: clusters.c.services.s.port: 1:20 is not a port (1-65535)"]),
    ("s: {port: http}", ["6: clusters.c.services.s.port: http is not a port (1-65535)"]),
    ("s: {port: 80, protcol: tcp}", ["6: clusters.c.services.s.protcol: unknown key, did you mean protocol?"]),
    ("s: {port: 80, protocol: sctp, check: udp}",
     ["6: clusters.c.services.s.protocol: sctp is not one of tcp, udp"]),
    ("s: {port: 80, protocol: udp}",
     ["6: clusters.c.services.s.check: is missing: udp has none that suits every service; choose ping, or "
      "{type: udp, send: TEXT, expect: PATTERN}"]),
    ("s: {port: 80, protocol: udp, check: http}",
     ["6: clusters.c.services.s.check: a check of type http speaks tcp, and the service is udp: choose another "
      "type, or give it the tcp port that it is to check"]),
    ("s: {port: 80, check: udp}",
     ["6: clusters.c.services.s.check: a check of type udp speaks udp, and the service is tcp: choose another "
      "type, or give it the udp port that it is to check"]),
    ("s: {port: 80, member_port: x, sticky: 2}",
     ["6: clusters.c.services.s.member_port: x is not a port (1-65535)",
      "6: clusters.c.services.s.sticky: 2 is not yes or no"]),
    ("'a b': {port: 80}",
     ["6: clusters.c.services.a b: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with "
      "a letter, a digit or _"]),
    ("a/b: {port: 80}",
     ["6: clusters.c.services.a/b: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with "
      "a letter, a digit or _"]),
    ("'*': {port: 80}",
     ["6: clusters.c.services.*: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with "
      "a letter, a digit or _"]),
    ("'': {port: 80}",
     ["6: clusters.c.services.'': is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with "
      "a letter, a digit or _"]),
    ('"a\\eb": {port: 80}',
     ["6: clusters.c.services.a\\x1bb: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with "
      "a letter, a digit or _"]),
    (".x: {port: 80}",
     ["6: clusters.c.services..x: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with "
      "a letter, a digit or _"]),
    ("-x: {port: 80}",
     ["6: clusters.c.services.-x: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with "
      "a letter, a digit or _"]),
    ("é: {port: 80}",
     ["6: clusters.c.services.é: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with "
      "a letter, a digit or _"]),
    ("s: {port: 80, check: {type: tcp, source: gw.example.org}}",
     ["6: clusters.c.services.s.check.source: gw.example.org is a host name: write its address, for names are not "
      "looked up here"]),
    (65 * "x" + ": {port: 80}",
     ["6: clusters.c.services.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx: is no name: 1 "
      "to 64 letters (a to z), digits and _ . : @ + -, beginning with a letter, a digit or _"]),
    ("- {port: 80}", ["5: clusters.c.services: a mapping of names to services is wanted, not a list"]),
    ("s: {port: 80}\n      t: {port: 80, check: ping}",
     ["7: clusters.c.services.t.port: 203.0.113.1 port 80 tcp already belongs to c/s (line 6)"]),
    ("s: {port: 80, check: }", ["6: clusters.c.services.s.check: has no value: give it one, or leave the key out"]),
    ("s: {port: 80, check: []}",
     ["6: clusters.c.services.s.check: an empty list: say which checks must pass, or leave the key out"]),
    ("s: {port: 80, check: [[tcp]]}",
     ["6: clusters.c.services.s.check[1]: a mapping with type, interval, timeout, rise, fall, fast_interval, "
      "down_interval, port, source is wanted, not a list"]),
    ("s: {port: 80, check: [{type: ping}, {type: tcp, interval: 1s, rise: 2, fall: 1, fast_interval: 1, "
     "down_interval: 1, timeout: 9s}]}",
     ["6: clusters.c.services.s.check[2].interval: only the first check of a list has interval: all run at its "
      "pace",
      "6: clusters.c.services.s.check[2].rise: only the first check of a list has rise: all run at its pace",
      "6: clusters.c.services.s.check[2].fall: only the first check of a list has fall: all run at its pace",
      "6: clusters.c.services.s.check[2].fast_interval: only the first check of a list has fast_interval: all "
      "run at its pace",
      "6: clusters.c.services.s.check[2].down_interval: only the first check of a list has down_interval: all "
      "run at its pace",
      "6: clusters.c.services.s.check[2].timeout: 9s is longer than the interval it runs in, 5s"]),
]

#: the members, and their errors after the file's name
MEMBER_ERRORS: list[tuple[str, list[str]]] = [
    ("members:", ["7: clusters.c.members: is empty: a mapping of names to addresses is wanted, with one at least"]),
    ("members: {}",
     ["7: clusters.c.members: is empty: a mapping of names to addresses is wanted, with one at least"]),
    ("members: [10.0.0.1]", ["7: clusters.c.members: a mapping of names to addresses is wanted, not a list"]),
    ("members: {m: web1.example.org}",
     ["7: clusters.c.members.m: web1.example.org is a host name: write its address, for ipnat accepts a name "
      "that it cannot resolve and then loads a rule for every address"]),
    ("members: {m: }", ["7: clusters.c.members.m: has no value: give it one, or leave the key out"]),
    ("members: {m: {}}", ["7: clusters.c.members.m.address: is missing: where the member is reached, numeric"]),
    ("members: {m: [10.0.0.1]}", ["7: clusters.c.members.m: one value is wanted, not a list"]),
    ("members: {m: {address: 10.0.0.1, weight: -1}}", ["7: clusters.c.members.m.weight: -1 is not a weight (0-99)"]),
    ("members: {m: {address: 10.0.0.1, weight: 100, wieght: 3}}",
     ["7: clusters.c.members.m.wieght: unknown key, did you mean weight?",
      "7: clusters.c.members.m.weight: 100 is not a weight (0-99)"]),
    ("members: {m: {address: 10.0.0.1, fallback: yes}}",
     ["7: clusters.c.members: every member is a fallback: one at least must be an ordinary member"]),
    ("members: {m: 10.0.0.1, n: {address: 10.0.0.1}}",
     ["7: clusters.c.members.n.address: 10.0.0.1 is already the address of m (line 7): their rules would be "
      "the same"]),
    ("members: {m: 10.0.0.1, n: {address: 10.0.0.1, port: 80}}",
     ["7: clusters.c.members.n.address: 10.0.0.1 is already the address of m (line 7): their rules would be "
      "the same"]),
    ("members: {m: {address: 10.0.0.1, port: 9}, n: {address: 10.0.0.1, port: 9}}",
     ["7: clusters.c.members.n.address: 10.0.0.1 is already the address of m (line 7): their rules would be "
      "the same"]),
    ("members: {m: fd00::1}",
     ["7: clusters.c.members.m: fd00::1 is IPv6 and the cluster is IPv4, as its first address is: an rdr rule "
      "cannot cross, make two clusters"]),
    ("members: {m: 203.0.113.1}",
     ["7: clusters.c.members.m: 203.0.113.1 port 80 is the cluster's own: the rule of s would lead to itself"]),
    ("members: {m: {address: 203.0.113.1, port: 80}}",
     ["7: clusters.c.members.m.address: 203.0.113.1 port 80 is the cluster's own: the rule of s would lead to "
      "itself"]),
    ("when_all_down: never",
     ["3: clusters.c.members: is missing: a mapping of names to addresses, or members_from",
      "7: clusters.c.when_all_down: never is not one of remove, keep"]),
    ("members: {m: {address: 10.0.0.1, backup: yes}}",
     ["7: clusters.c.members.m.backup: unknown key, did you mean fallback?"]),
    ("members: {m: {address: [10.0.0.1]}}", ["7: clusters.c.members.m.address: one value is wanted, not a list"]),
]

KNOWN = ("tcp, tls, http, https, udp, exec, ping, smtp, imap, pop3, ftp, ssh, redis, mysql, pgsql, ldap, dns, agent")

#: a check, and its errors after its line and path
CHECK_ERRORS: list[tuple[str, list[str]]] = [
    ("htpp", [f": htpp is not one of {KNOWN}"]),
    ("{}", [f".type: is missing: one of {KNOWN}"]),
    ("{path: /}", [f".type: is missing: one of {KNOWN}"]),
    ("{type: htp}", [f".type: htp is not one of {KNOWN}"]),
    ("{type: http, dialog: [expect: x]}", [".dialog: a check of type http has no dialog, only tcp, tls"]),
    ("{type: tcp, path: /, verify: no, sni: x, status: 200}",
     [".path: a check of type tcp has no path, only http, https",
      ".verify: a check of type tcp has no verify, only tls, https, smtp, imap, pop3, ftp, redis, mysql, pgsql, ldap, "
      "dns",
      ".sni: a check of type tcp has no sni, only tls, https, smtp, imap, pop3, ftp, redis, mysql, pgsql, ldap, dns",
      ".status: a check of type tcp has no status, only http, https"]),
    ("{type: http, closed: yes}", [".closed: a check of type http has no closed, only tcp, udp"]),
    ("{type: ping, close: fin}", [".close: a check of type ping has no close, only tcp, tls, http, https"]),
    ("{type: exec}", [".command: is missing: the program and its arguments, a list of words"]),
    ("exec", [".command: is missing: the program and its arguments, a list of words"]),
    ("{type: exec, command: []}", [".command: is empty: the program and its arguments, a list of words"]),
    ("{type: exec, command: bin/x}", [".command: bin/x is not an absolute path, nor the bare name of a program"]),
    ("{type: exec, command: /bin/x -a}",
     [".command: '/bin/x -a' has blanks: write a list of words, as in [/bin/x, -a]; there is no shell"]),
    ("{type: exec, command: [/bin/x, '{adress}'], user: 'a b'}",
     [".command[2]: {adress} is not a placeholder, did you mean {address}?",
      ".user: 'a b' is not the name of a user or group"]),
    ("{type: tcp, closed: yes, dialog: [expect: x]}",
     [".dialog: contradicts closed: yes, which passes when the port refuses"]),
    ("{type: udp, port: 1, closed: yes, send: a, expect: x}",
     [".expect: contradicts closed: yes, which passes when the port refuses"]),
    ("{type: http, method: HEAD, body: x}", [".body: the answer to HEAD has no body"]),
    ("{type: http, status: [204, 304], body: x}", [".body: no answer with such a status has a body"]),
    ("{type: http, status: [101, 304], body: x}", [".body: no answer with such a status has a body"]),
    ("{type: https, host: 'a:99999', sni: 'fe80::1%em0'}",
     [".sni: fe80::1%em0 is not the name of a server",
      ".host: a:99999 is not a host, with or without a port"]),
    ("{type: http, status: abc, body: x}", [".status: abc is not a status (200, 200-299, or a list of such)"]),
    ("{type: http, host: '[12:34]'}", [".host: [12:34] is not a host, with or without a port"]),
    ("{type: tcp, dialog: []}",
     [".dialog: a list of steps is wanted, each of them send:, expect: or reject: with its text"]),
    ("{type: tcp, dialog: x}",
     [".dialog: a list of steps is wanted, each of them send:, expect: or reject: with its text"]),
    ("{type: tcp, dialog: {expect: x}}",
     [".dialog: a list of steps is wanted, each of them send:, expect: or reject: with its text"]),
    ("{type: tcp, dialog: [x]}", [".dialog[1]: a mapping with send, expect, reject is wanted, not a text"]),
    ("{type: tcp, dialog: [{expect: x, send: y}]}",
     [".dialog[1]: one step has one of send, expect, reject: begin each with a dash of its own"]),
    ("{type: tcp, dialog: [expct: x]}", [".dialog[1].expct: unknown key, did you mean expect?"]),
    ("{type: tcp, dialog: [send: '']}", [".dialog[1].send: is empty"]),
    ("{type: tcp, dialog: [send: 'a%0', expect: '%zz', reject: '100%']}",
     [".dialog[1].send: its character 2 is a % without two hexadecimal digits after it (a percent sign is %25)",
      ".dialog[2].expect: its character 1 is a % without two hexadecimal digits after it (a percent sign is %25)",
      ".dialog[3].reject: its character 4 is a % without two hexadecimal digits after it (a percent sign is %25)"]),
    ("{type: tcp, dialog: [send: [a]]}", [".dialog[1].send: one value is wanted, not a list"]),
    ("{type: tcp, dialog: [{}]}",
     [".dialog[1]: one step has one of send, expect, reject: begin each with a dash of its own"]),
    ("{type: tcp, dialog: [send: ]}", [".dialog[1].send: has no value: give it one, or leave the key out"]),
    ("{type: tcp, timeout: 6s}", [".timeout: 6s is longer than the interval it runs in, 5s"]),
    ("{type: tcp, interval: 1s, timeout: 1500ms}", [".timeout: 1.5s is longer than the interval it runs in, 1s"]),
    ("{type: tcp, interval: fast, timeout: 6s}",
     [".interval: fast is not a duration (500ms, 2s, 1m, 1h, or a number of seconds)"]),
    ("{type: tcp, timeout: fast, interval: 1s}",
     [".timeout: fast is not a duration (500ms, 2s, 1m, 1h, or a number of seconds)"]),
    ("{type: tcp, interval: 49ms}", [".interval: 49ms is out of range (50ms-24h)"]),
    ("{type: tcp, rise: 0, fall: two}",
     [".rise: 0 is not a number of probes (1-100)",
      ".fall: two is not a number of probes (1-100)"]),
    ("{type: tcp, port: 65536, close: rst, intervall: 1}",
     [".intervall: unknown key, did you mean interval?",
      ".port: 65536 is not a port (1-65535)",
      ".close: rst is not one of reset, fin"]),
    ("{type: http, path: healthz}",
     [".path: healthz is not a path: it begins with /, other characters than printable ASCII are written %XX"]),
    ("{type: http, path: '/a b'}",
     [".path: '/a b' is not a path: it begins with /, other characters than printable ASCII are written %XX"]),
    ("{type: http, path: /é}",
     [".path: /é is not a path: it begins with /, other characters than printable ASCII are written %XX"]),
    ("{type: http, method: get, host: 'a b', body: ''}",
     [".method: get is not a method (GET, HEAD, OPTIONS, POST, in capitals)",
      ".host: 'a b' is not a host, with or without a port",
      ".body: is empty"]),
    ("{type: http, host: a..b}", [".host: a..b is not a host, with or without a port"]),
    ("{type: http, headers: x}", [".headers: a mapping of header names to values is wanted, not a text"]),
    ("{type: http, headers: {Host: b, host: c}}", [".headers.host: given twice: Host is the same header"]),
    ("{type: http, host: a, headers: {Host: b}}",
     [".headers.Host: given twice: host, on line 6, is the same header"]),
    ('{type: http, headers: {\'a b\': c, Content-Length: 3, x: "a\\r\\nb", y: [], z: }}',
     [".headers.?: is not the name of a header",
      ".headers.Content-Length: says how long the body is, which is a matter of data: leave it out",
      ".headers.x: is not the value of a header (printable ASCII, no blanks at the ends)",
      ".headers.y: one value is wanted, not a list",
      ".headers.z: has no value: give it one, or leave the key out"]),
    ("{type: http, status: 2xx}", [".status: 2xx is not a status (200, 200-299, or a list of such)"]),
    ("{type: http, status: 99}", [".status: 99 is not a status (200, 200-299, or a list of such)"]),
    ("{type: http, status: 300-200}", [".status: 300-200 is an empty range, the lower end comes first"]),
    ("{type: http, status: []}", [".status: an empty list: no answer could pass"]),
    ("{type: http, drain: sick}", [".drain: sick is not a status (200, 200-299, or a list of such)"]),
    ("{type: http, status: 200-503, drain: [404, 503]}",
     [".drain: 404 is in status, too: an answer passes, or says that its member wants to be left"]),
    ("{type: tcp, drain: 503}", [".drain: a check of type tcp has no drain, only http, https"]),
    ("{type: http, status: [200, foo]}", [".status[2]: foo is not a status (200, 200-299, or a list of such)"]),
    ("{type: http, status: }", [".status: an empty list: no answer could pass"]),
    ("{type: https, verify: ca.pem, sni: -x}",
     [".verify: ca.pem is not yes, no or the absolute path of a file of CA certificates",
      ".sni: -x is not the name of a server"]),
    ("{type: tls, verify_host: member}",
     [".verify_host: means nothing without verify: yes, or a file of CA certificates"]),
    ("{type: tls, verify: no, verify_host: a}",
     [".verify_host: means nothing without verify: yes, or a file of CA certificates"]),
    ("{type: tls, verify: ca.pem, verify_host: a b}",
     [".verify: ca.pem is not yes, no or the absolute path of a file of CA certificates",
      ".verify_host: 'a b' is not a name, an address or the word member"]),
    ("{type: tls, key: /k, cert: c}", [".cert: c is not an absolute path"]),
    ("{type: tcp, closed: yes, send_proxy: v1}",
     [".send_proxy: contradicts closed: yes, which passes when the port refuses"]),
    ("{type: http, send_proxy: v3}", [".send_proxy: v3 is not one of v1, v2"]),
    ("{type: exec, command: [x, '{source}']}", [".command: {source} stands for the key source, which is missing"]),
    ("{type: ping, source: '::'}",
     [".source: :: is the unspecified address: a rule needs the address of one machine"]),
    ("{type: imap, tls: yes, starttls: yes}",
     [".starttls: contradicts tls: yes: TLS begins at once, or when the server has agreed"]),
    ("{type: imap, verify: yes}", [".verify: means nothing without tls: yes or starttls: yes"]),
    ("{type: mysql, sni: a}", [".sni: means nothing without starttls: yes"]),
    ("{type: mysql, tls: yes}",
     [".tls: a check of type mysql has no tls, only smtp, imap, pop3, ftp, redis, ldap, dns"]),
    ("dns", [".name: is missing: what is asked for"]),
    ("{type: dns, name: a..b, record: X, over: udp, tls: yes}",
     [".name: a..b is not a name of the DNS",
      ".record: X is not one of A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, DS, DNSKEY, SVCB, HTTPS, CAA",
      ".over: udp has no TLS, and no header of the PROXY protocol: tcp, then"]),
    ("agent", [".port: is missing: where the agent listens"]),
    ("{type: mysql, password: x}", [".password: is nobody's: user is missing"]),
    ("{type: ldap, user: cn=x}",
     [".user: needs a password: a bind without one is anonymous, whatever the name (RFC 4513, 5.1.2)"]),
    ("{type: pgsql, password: x}", [".password: is nobody's: user is missing"]),
    ("{type: ldap, password: x}", [".password: is nobody's: user is missing"]),
    ("{type: mysql, writable: yes}", [".writable: can be asked only by who logs in: user is missing"]),
    ("{type: pgsql, writable: yes}", [".writable: can be asked only by who logs in: user is missing"]),
    ("{type: pgsql, user: \"a\\nb\"}",
     [".user: is no name for a login: up to 255 bytes, all of them printable"]),
    ("{type: smtp, name: a b}", [".name: 'a b' is not the name of a server"]),
    ("{type: tls, key: /k}", [".key: is the key of no certificate: cert is missing"]),
    ("{type: tls, sni: a..b}", [".sni: a..b is not the name of a server"]),
    ("{type: tls, sni: " + 64 * "a" + "}",
     [".sni: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa... is not the name of a server"]),
    ("{type: tcp, dialog: [send: " + 16385 * "a" + "]}", [".dialog[1].send: is longer than 16384 bytes"]),
    ("[tcp, htpp]", [f"[2]: htpp is not one of {KNOWN}"]),
]

#: what YAML itself refuses: a file, the line, and the end of the message (the middle is the parser's)
SYNTAX: list[tuple[str, int, str]] = [
    ("ipfilter:\n\tinterface: em0\n", 2, "; indent with spaces, not with tabs"),
    ("ipfilter: {interface: em0\nclusters: 1\n", 2, "flow mapping that begins on line 1"),
    ("a: 1\nb: c: d\n", 2, ""), ("a: 'x\n\n", 3, "quoted scalar that begins on line 1"), ("{a: 1}}", 1, ""),
    ("a: 1\nb: %20\n", 2, '; put a value that begins with % in quotes'),
    ("a: 1\r\nb: @x\r\n", 2, '; put a value that begins with @ in quotes'),
    ("http: [::1]:80\n", 1, "; put an IPv6 address in quotes, if it has brackets or stands within them"),
    ("address: [2001:db8::1, ::1]\n", 1, "; put an IPv6 address in quotes, if it has brackets or stands within them"),
    ("%YAML 3.0\n---\na: 1\n", 1, ""),
]


@pytest.mark.parametrize("text, expected", FILES)
def test_a_file(text: str | bytes, expected: list[str]) -> None:
    assert errors(text) == [f"l4ip.conf:{error}" for error in expected]


@pytest.mark.parametrize("text, expected", TOP_ERRORS)
def test_the_top_level(text: str, expected: list[str]) -> None:
    assert errors(small(more=text)) == [f"l4ip.conf:8: {error}" for error in expected]


@pytest.mark.parametrize("text, expected", IPFILTER_ERRORS)
def test_ipfilter(text: str, expected: list[str]) -> None:
    found = errors(small(f"ipfilter: {{interface: em0, {text}}}"))
    assert found == [f"l4ip.conf:1: ipfilter.{error}" for error in expected]


@pytest.mark.parametrize("text, expected", INTERFACE_ERRORS)
def test_the_interface(text: str, expected: list[str]) -> None:
    found = errors(small(f"ipfilter: {{interface: {text}}}"))
    assert found == [f"l4ip.conf:1: ipfilter.{error}" for error in expected]


@pytest.mark.parametrize("text, expected", ADDRESS_ERRORS)
def test_the_address_of_a_cluster(text: str, expected: list[str]) -> None:
    assert errors(small(address=f"address: {text}")) == [f"l4ip.conf:{error}" for error in expected]


@pytest.mark.parametrize("text, expected", SERVICE_ERRORS)
def test_services(text: str, expected: list[str]) -> None:
    assert errors(small(services=text)) == [f"l4ip.conf:{error}" for error in expected]


@pytest.mark.parametrize("text, expected", MEMBER_ERRORS)
def test_members(text: str, expected: list[str]) -> None:
    assert errors(small(members=text)) == [f"l4ip.conf:{error}" for error in expected]


KNOWN = "type, interval, timeout, rise, fall, fast_interval, down_interval, port, source"


@pytest.mark.parametrize("check, known, more", [
    ("{type: ping, qqqqq: 1}", KNOWN, []), ("{type: tcp, qqqqq: 1}", f"{KNOWN}, dialog, closed, send_proxy, close", []),
    ("{qqqqq: 1}", KNOWN, ["is missing: one of "]), ("{type: nope, qqqqq: 1}", KNOWN, ["nope is not one of "]),
    ("{type: [], qqqqq: 1}", KNOWN, ["one value is wanted, not a list"]),
])
def test_keys_that_are_told_are_those_of_the_type(check: str, known: str, more: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(with_check(check), "l4ip.conf")
    first, *others = str(refused.value).splitlines()
    assert first.endswith(f".check.qqqqq: unknown key; known here: {known}")
    assert [words in other for words, other in zip(more, others, strict=True)] == [True] * len(more)


@pytest.mark.parametrize("text, expected", CHECK_ERRORS)
def test_checks(text: str, expected: list[str]) -> None:
    assert errors(with_check(text)) == [f"l4ip.conf:6: clusters.c.services.s.check{error}" for error in expected]


@pytest.mark.parametrize("text, line, end", SYNTAX)
def test_the_syntax_of_yaml(text: str, line: int, end: str) -> None:
    found = errors(text)
    assert len(found) == 1
    assert found[0].startswith(f"l4ip.conf:{line}: not YAML: ") and found[0].endswith(end)


@pytest.mark.parametrize("text", ["[", "{a: ", "- ", "[{a: ", "? "])
def test_absurd_depth(text: str) -> None:
    found = errors(text * 20000)
    assert len(found) == 1 and found[0].startswith("l4ip.conf:1: ")


def test_the_form_of_the_contract() -> None:
    """The very line that the manual shows."""
    text = SAMPLE.replace("port: 80\n", "port: 70000\n")
    line = text[:text.index("70000")].count("\n") + 1
    assert errors(text) == [f"l4ip.conf:{line}: clusters.www.services.http.port: 70000 is not a port (1-65535)"]


def test_a_duplicate_key_far_away() -> None:
    text = SAMPLE + "ipfilter: {interface: em1}\n"
    last = text.count("\n")
    assert errors(text) == [f"l4ip.conf:{last}: ipfilter: given twice; the first one is on line 8"]


def test_a_service_on_a_port_that_another_cluster_has() -> None:
    more = "  d: {address: [203.0.113.2, 203.0.113.1], services: {x: {port: 80}}, members: {m: 10.0.0.9}}"
    assert errors(small(more=more)) == [
        "l4ip.conf:8: clusters.d.services.x.port: 203.0.113.1 port 80 tcp already belongs to c/s (line 6)"]


def test_a_weight_without_a_tag() -> None:
    text = small("ipfilter: {interface: em0, tag: no}", members="members: {m: {address: 10.0.0.1, weight: 2}}")
    assert errors(text) == ["l4ip.conf:7: clusters.c.members.m.weight: weight 2 needs a tag: the rules of one member"
                            " differ in nothing else, and ipfilter.tag is no"]


def test_all_errors_at_once_in_the_order_of_the_file() -> None:
    text = """\
http: 1
ipfilter: {interface: em0:1, tagg: x}
clusters:
  a b:
    address: example.org
    services: {s: {port: 80, check: {type: http, status: x, dialog: []}}}
    members:
      m: 10.0.0.300
      n: {address: 10.0.0.2, weight: many}
pidfile: l4ip.pid
"""
    found = errors(text)
    assert [int(line.split(":")[1]) for line in found] == [1, 2, 2, 4, 5, 6, 6, 8, 9, 10]


def test_an_alias_is_refused_where_it_is_used() -> None:
    """An error in what an anchor names is reported once for every use, each with its own path."""
    more = "  d: {address: 203.0.113.2, services: {x: {port: 80, check: *k}}, members: {m: 10.0.0.9}}"
    text = small(services="s: {port: 80, check: &k {type: http, path: x}}", more=more)
    assert [line.rpartition(".path")[0] for line in errors(text)] == [
        "l4ip.conf:6: clusters.c.services.s.check", "l4ip.conf:6: clusters.d.services.x.check"]


def test_nothing_from_the_file_can_break_a_line() -> None:
    text = 'a\u2028\x85: 1\n"b\\nl4ip.conf:1: c": "\\e[2J"\nhttp: "x\\ny"\n'
    assert all(line.isprintable() for line in errors(text))
    with pytest.raises(ConfigError) as caught:
        parse("a: 1", "odd\nname")
    assert all(line.startswith("odd\\nname:1: ") for line in caught.value.errors)


# -- secrets

SECRET = "hunter2"
CHECKS = [                                          # @ is the text in question
    *(f"{{type: http, {place}}}" for place in (
        "headers: {Authorization: @}", "headers: @", "headers: [@]", "headers: {@: x}", "path: @",
        "method: GET, headers: {A: @, A: @}")),
    *(f"{{type: tcp, dialog: {steps}}}" for steps in (
        "[send: @]", "[expect: @]", "[reject: @]", "@", "[@]", "[{@}]", "{send: @}", "[[send: @]]")),
    *(f"{{type: udp, port: 53, {key}}}" for key in ("send: @", "expect: @", "send: [@]", "send: {a: @}"))]
TEXTS = [                                           # what is wrong, or in the wrong place, with a secret in it
    "hunter2%zz", "'hunter2%'", "' hunter2'", "'Bearer hunter2 '", r'"hunter2\r\n"', r'"\x00hunter2"',
    r'"hunter2\u00e9"', "!hunter2", "!hunter2 x", "*hunter2", "&hunter2", "send:hunter2", "'send: hunter2'",
    "'PASS hunter2'", "%hunter2", "`hunter2", r'"\hunter2"', "'hunter2", "/a?hunter2", "'/a?hunter2 x'",
    "'/a b?hunter2'", "'?hunter2'", "a: hunter2", r'"hunter2\ud800"', f"'{17_000 * 'x'}hunter2'",
    f"'{300 * 'hunter2 '}'"]


@pytest.mark.parametrize("text", TEXTS)
def test_no_message_has_a_secret(text: str) -> None:
    """Who may use the control socket gets the errors of a reload; he may not read the file."""
    refused = 0
    for check in CHECKS:
        try:
            parse(small(services="s: {port: 80, check: " + check.replace("@", text) + "}"), "l4ip.conf")
        except ConfigError as error:
            refused += 1
            named = "headers: {@" in check and text.startswith(SECRET)      # the names of headers are none
            if not named and ("path:" not in check or "?" in text):         # nor are paths, up to their query
                assert SECRET not in "\n".join(error.errors), (check, error.errors)
    assert refused, "or it proves nothing"
