"""What a configuration says, and nothing of what is happening: every object here is frozen and compares by value.

A reload compares old with new by ``==``; whatever compares equal keeps its state. Times are seconds, addresses are
numeric text in the spelling of :mod:`ipaddress`, and every name has been checked by :mod:`l4ipd.config.parse`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that stands in a file: ``key`` leads there from the check: ("headers", "X"), ("dialog", 2, "send")."""

    key: tuple[str | int, ...]
    file: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a dialog: ``verb`` is ``send``, ``expect`` or ``reject``; ``text`` has its %XX decoded."""

    verb: str
    text: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Check:
    """The definition of a check. Keys that its type does not have keep their defaults.

    Many attributes: as many as there are keys.
    """

    type: str                                       # tcp tls http https udp exec ping, or a protocol by name
    interval: float = 5.0
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    fast_interval: float = 1.0                      # the pace while the outcome is in doubt
    down_interval: float = 5.0                      # the pace while down
    port: int | None = None                         # probed instead of the member's port
    source: str | None = None                       # our address for the probe
    send_proxy: str | None = None                   # tcp, tls, http, https: v1 | v2
    close: str | None = None                        # reset | fin | None: whichever suits what was said
    closed: bool = False                            # tcp, udp: pass when the port refuses
    dialog: tuple[Step, ...] = ()                   # tcp, tls
    secrets: tuple[Secret, ...] = ()                # which of the values stand in files
    verify: str | None = None                       # tls, https: None no, "" the system's CAs, else a CA file
    sni: str | None = None                          # tls, https: the name asked for, and verified if verify is on
    verify_host: str | None = None                  # tls, https: verified instead of it; "member": the member's address
    cert: str | None = None                         # tls, https: our certificate, a PEM file
    key: str | None = None                          # tls, https: its key; None: in the same file
    method: str = "GET"                             # http, https
    path: str = "/"
    host: str | None = None                         # default: the member's address and port
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    data: bytes | None = field(default=None, repr=False)    # the body of the request, %XX decoded
    status: tuple[tuple[int, int], ...] = ((200, 399),)   # inclusive ranges
    drain: tuple[tuple[int, int], ...] = ()         # of statuses by which a living member says that it wants to be left
    body: bytes | None = None                       # fnmatch pattern, %XX decoded
    send: bytes | None = field(default=None, repr=False)    # udp
    expect: bytes | None = None                     # udp: fnmatch pattern, %XX decoded
    command: Words = ()                             # exec
    user: str | None = None                         # exec: who runs it; protocols by name: who logs in
    tls: bool = False                               # protocols by name: inside of TLS, from the beginning or
    starttls: bool = False                          # when the server has agreed
    password: bytes | None = field(default=None, repr=False)
    name: str | None = None                         # smtp: ours; pgsql: of the database; dns: what is asked for
    record: str = "A"                               # dns
    over: str | None = None                         # dns: udp | tcp
    writable: bool = False                          # redis, mysql, pgsql: one that is read only will not do


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    address: str
    weight: int = 1                                 # 0: checked and shown, never given anything
    fallback: bool = False
    port: int | None = None                         # instead of the service's member_port
    origin: str = ""                                # the source that it comes from, for people


@dataclass(frozen=True, slots=True)
class Source:
    """Where more members of a cluster come from, and go to: a file, or a name in the DNS."""

    file: str = ""                                  # its absolute path
    dns: str = ""                                   # a name; one that begins with _ has SRV records
    servers: tuple[tuple[str, int], ...] = ()       # addresses and ports of name servers; none: the system's

    @property
    def origin(self) -> str:
        """For people: ``file /etc/web.yaml``, ``dns web.example.net``."""
        return f"file {self.file}" if self.file else f"dns {self.dns}"


@dataclass(frozen=True, slots=True)
class Flap:
    """How often the state of an endpoint may change until it is held down."""

    changes: int = 6
    within: float = 300.0                           # seconds


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    port: int
    protocol: str                                   # tcp | udp
    member_port: int
    sticky: bool
    checks: tuple[Check, ...]                       # all must pass; the first one sets pace, rise and fall
    purge: str = "dead"                             # dead | yes | no: whose sessions end with the rules
    age: int | None = None                          # seconds until a silent session is forgotten
    ports: int = 1                                  # a range of so many: ``port`` and ``member_port`` are its first
    same_as: str = ""                               # the service whose checks these are
    flap: Flap | None = Flap()                      # None: nobody is held down

    @property
    def port_words(self) -> str:
        """For people and rules: ``80``, ``40000-40999``."""
        return port_range(self.port, self.ports)

    def port_of(self, member: Member) -> int:
        """Where a member serves it, or the first port of these: a range has no room for members' own ports."""
        return (member.port if self.ports == 1 else None) or self.member_port


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One service on one member: what is checked, what is up or down, what owns rules.

    Many attributes: all that its cluster, its service and its member say of it, so that nobody has to look there.
    """

    name: str                                       # cluster/service/member
    cluster: str
    service: str
    member: str
    vips: Words                                     # the cluster's addresses
    port: int                                       # the port clients connect to
    protocol: str
    sticky: bool
    address: str                                    # the member's
    member_port: int
    weight: int
    fallback: bool
    checks: tuple[Check, ...]
    purge: str = "dead"                             # dead | yes | no
    age: int | None = None                          # seconds
    origin: str = ""                                # the source that the member comes from, for people
    ports: int = 1                                  # a range of so many: ``port`` and ``member_port`` are its first
    same_as: str = ""                               # the service whose checks these are
    same_port: int | None = None                    # its port on this member
    flap: Flap | None = Flap()                      # None: it is never held down

    @property
    def group(self) -> str:
        """The name of the service that this endpoint belongs to: ``cluster/service``."""
        return f"{self.cluster}/{self.service}"

    @property
    def where(self) -> str:
        """Address and port for people: ``10.0.0.11:8080``, ``[fd00::2]:8080``, ``10.0.0.11:50000-50999``."""
        return host_port(self.address, self.member_port_words)

    @property
    def port_words(self) -> str:
        """The ports that clients connect to: ``80``, ``40000-40999``."""
        return port_range(self.port, self.ports)

    @property
    def member_port_words(self) -> str:
        """The member's ports: ``8080``, ``50000-50999``."""
        return port_range(self.member_port, self.ports)

    @property
    def member_ports(self) -> range:
        """Where its clients arrive."""
        return range(self.member_port, self.member_port + self.ports)

    @property
    def probe_port(self) -> int:
        """Where a check goes that names no port."""
        return self.member_port if self.same_port is None else self.same_port

    def port_of(self, check: Check) -> int:
        """Where a check goes."""
        return check.port or self.probe_port

    def is_at_its_port(self, check: Check) -> bool:
        """Whether a check is of a port that its clients use."""
        return self.port_of(check) in self.member_ports

    @property
    def checked_as(self) -> str:
        """The service that commands are told of."""
        return self.same_as or self.service

    @property
    def probed(self) -> tuple[str, int, tuple[Check, ...], str]:
        """What the probes depend on; while it stays the same, probes in flight and counters stay valid."""
        told = any("{service}" in word for check in self.checks for word in check.command)
        return self.address, self.probe_port, self.checks, self.checked_as if told else ""


@dataclass(frozen=True, slots=True)
class Ready:
    """When a cluster's addresses deserve to be announced."""

    services: str = "all"                           # all | any: of its services have to have
    members: int = 1                                # so many members each that serve, without fallbacks


@dataclass(frozen=True, slots=True)
class Cluster:
    name: str
    addresses: Words                                # all of one family, as the members' are
    services: tuple[Service, ...]
    members: tuple[Member, ...]
    keep: bool = False                              # when_all_down: keep
    ready: Ready = Ready()
    sources: tuple[Source, ...] = ()                # of members that do not stand in the configuration

    def endpoints(self) -> Iterator[Endpoint]:
        named = {service.name: service for service in self.services}
        for service in self.services:
            same = named.get(service.same_as)
            for member in self.members:
                yield Endpoint(f"{self.name}/{service.name}/{member.name}", self.name, service.name, member.name,
                               self.addresses, service.port, service.protocol, service.sticky, member.address,
                               service.port_of(member), member.weight, member.fallback, service.checks,
                               service.purge, service.age, member.origin, service.ports, service.same_as,
                               None if same is None else same.port_of(member), service.flap)


@dataclass(frozen=True, slots=True)
class Log:
    facility: str = "daemon"
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Ipfilter:
    interface: str = ""
    tag: str | None = "l4ip"                        # None: this IPFilter has no tags
    resync: float = 2.0                             # at least; see l4ipd.ipfilter.resync
    on_stop: str = "keep"                           # keep | remove
    purge: str = "dead"                             # what services have that do not say: dead | yes | no
    timeout: float = 5.0
    ipnat: Words = ("ipnat",)                       # first word: a path, or a name to be searched
    ipf: Words = ("ipf",)
    ipfstat: Words = ("ipfstat",)
    ipmon: Words = ("ipmon",)


@dataclass(frozen=True, slots=True)
class Resets:
    interface: str
    source: str = "ipmon"                           # ipmon | counters | a path
    action: str = "refused"                         # refused | any | check
    tag: int = 4711


@dataclass(frozen=True, slots=True)
class Control:
    path: str = "/var/run/l4ip.sock"
    group: str | None = None                        # with a group, mode 0660 instead of 0600


@dataclass(frozen=True, slots=True)
class Http:
    address: str                                    # where to listen
    port: int
    names: Words = ()                               # that are ours, besides the machine's own


@dataclass(frozen=True, slots=True)
class Config:
    ipfilter: Ipfilter = Ipfilter()
    clusters: tuple[Cluster, ...] = ()
    pidfile: str = "/var/run/l4ip.pid"
    control: Control = Control()
    state: str = "/var/db/l4ip/state.json"
    log: Log = Log()
    http: Http | None = None
    notify: Words = ()
    resets: Resets | None = None
    given: frozenset[str] = field(default=frozenset(), compare=False)   # top-level keys that stand in the file
    files: Words = field(default=(), compare=False)     # that it was read from, the first one and those it includes

    def endpoints(self) -> Iterator[Endpoint]:
        """Every endpoint, in the order of the file."""
        for cluster in self.clusters:
            yield from cluster.endpoints()


def among(number: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    """Whether it is in one of these inclusive ranges."""
    return any(low <= number <= high for low, high in ranges)


def port_range(first: int, ports: int) -> str:
    """``80``; ``40000-40999`` for a thousand."""
    return str(first) if ports == 1 else f"{first}-{first + ports - 1}"


def host_port(address: str, port: int | str) -> str:
    """``10.0.0.11:8080``, ``[fd00::2]:8080``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def changes(before: Config, after: Config) -> list[str]:
    """The settings that differ, clusters apart: ``http``, ``ipfilter.tag``."""
    found = []
    for each in fields(Config):
        old, new = getattr(before, each.name), getattr(after, each.name)
        if not each.compare or each.name == "clusters" or old == new:
            continue
        if isinstance(new, (Ipfilter, Log, Resets, Control)) and type(old) is type(new):
            found += [f"{each.name}.{part.name}" for part in fields(new)
                      if getattr(old, part.name) != getattr(new, part.name)]
        else:
            found.append(each.name)
    return found
