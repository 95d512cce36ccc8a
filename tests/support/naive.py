"""What a gateway should be, said as simply as possible: configurations as plain dicts, and the rules that follow.

Nothing here knows the daemon's code: :func:`text` writes a configuration down, :func:`mutate` changes it as an operator
would, :func:`rules` says what the kernel should have while certain endpoints are up.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

Settings = dict[str, Any]
Rule = tuple[str, str, str, str, int, str, bool, str]   # interface, VIP, ports, member, its port, protocol, sticky, tag
LISTED = re.compile(r"rdr (\S+) (\S+)/\d+ port (\d+(?:-\d+)?) -> (\S+?)(?:/\d+)? port (\d+) (tcp|udp) round-robin"
                    r"( sticky)?(?: tag (\S+))?$")
PURGES = (None, None, "dead", True, False)
FLAPS = (False, None, {"changes": 2, "within": "1m"}, {"changes": 2, "within": "1h"}, {"changes": 3, "within": "1h"})
ADDRESSES = [f"10.0.0.{number}" for number in range(1, 10)]


def draw(chance: random.Random) -> Settings:
    """A configuration to begin with."""
    clusters = {f"c{number}": cluster(chance, number) for number in range(chance.choice((1, 2, 2, 3)))}
    settings: Settings = {"interface": "em0", "tag": chance.choice(("l4ip", "l4ip", "l4ip", None)), "resync": 3.0,
                          "on_stop": "keep", "purge": chance.choice(PURGES), "resets": None, "clusters": clusters,
                          "flap": chance.choice(FLAPS)}
    if chance.random() < 0.6:
        settings["resets"] = {"interface": "em1", "source": chance.choice(("ipmon", "ipmon", "counters")),
                              "action": chance.choice(("refused", "refused", "any", "check"))}
    return _tidy(settings)


def cluster(chance: random.Random, number: int) -> Settings:
    services = {f"s{place}": service(chance, 80 + 4 * place) for place in range(chance.choice((1, 1, 2, 2)))}
    _same(services, chance)
    addresses = chance.sample(ADDRESSES, chance.choice((1, 2, 3, 4)))
    return {"address": f"203.0.113.{10 + number}", "keep": chance.random() < 0.3, "services": services,
            "members": {f"m{place}": {"address": address, "weight": chance.choice((0, 1, 1, 1, 2, 3)),
                                      "fallback": chance.random() < 0.2} for place, address in enumerate(addresses)}}


def service(chance: random.Random, port: int) -> Settings:
    """``ports`` is the length of a range; ``same`` the service whose check stands for its own, if one does."""
    return {"port": port, "member_port": port + 8000, "sticky": chance.random() < 0.3, "check": check(chance),
            "ports": chance.choice((1, 1, 3)), "same": None}


def check(chance: random.Random) -> Settings:
    kind = chance.choice(("tcp", "tcp", "tcp", "exec"))
    return {"type": kind, "interval": chance.choice((0.5, 1.0, 2.0)), "timeout": 0.4, "rise": chance.choice((1, 2, 3)),
            "fall": chance.choice((1, 2, 3))}


def mutate(settings: Settings, chance: random.Random) -> Settings:
    """The same after somebody has edited it, in one to three places."""
    settings = copy.deepcopy(settings)
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice(EDITS)(settings, chance)
    return _tidy(settings)


def _tidy(settings: Settings) -> Settings:
    """Without tags there are no weights; one member at least is no fallback."""
    for each in settings["clusters"].values():
        members = list(each["members"].values())
        for member in members:
            member["weight"] = min(member["weight"], 3 if settings["tag"] is not None else 1)
        members[0]["fallback"] = members[0]["fallback"] and not all(member["fallback"] for member in members)
        for it in each["services"].values():
            if it["same"] is not None and (it["same"] not in each["services"] or each["services"][it["same"]]["same"]):
                it["same"] = None
    return settings


def _some(things: dict[str, Any], chance: random.Random) -> str:
    return chance.choice(sorted(things))


def _rename(things: dict[str, Any], chance: random.Random, prefix: str) -> None:
    """One thing gets another name and keeps its place."""
    old = _some(things, chance)
    new = f"{prefix}{chance.randrange(10, 99)}"
    if new not in things:
        items = [(new if name == old else name, value) for name, value in things.items()]
        things.clear()
        things.update(items)


def _cluster(settings: Settings, chance: random.Random) -> Settings:
    return settings["clusters"][_some(settings["clusters"], chance)]       # type: ignore[no-any-return]


def _rename_member(settings: Settings, chance: random.Random) -> None:
    _rename(_cluster(settings, chance)["members"], chance, "m")


def _rename_service(settings: Settings, chance: random.Random) -> None:
    services = _cluster(settings, chance)["services"]
    places = list(services)
    _rename(services, chance, "s")
    now = dict(zip(places, services, strict=True))
    for it in services.values():
        it["same"] = now.get(it["same"])


def _rename_cluster(settings: Settings, chance: random.Random) -> None:
    _rename(settings["clusters"], chance, "c")


def _swap_addresses(settings: Settings, chance: random.Random) -> None:
    members = _cluster(settings, chance)["members"]
    one, two = members[_some(members, chance)], members[_some(members, chance)]
    one["address"], two["address"] = two["address"], one["address"]


def _move(settings: Settings, chance: random.Random) -> None:
    members = _cluster(settings, chance)["members"]
    free = sorted(set(ADDRESSES) - {member["address"] for member in members.values()})
    members[_some(members, chance)]["address"] = chance.choice(free)


def _weight(settings: Settings, chance: random.Random) -> None:
    members = _cluster(settings, chance)["members"]
    members[_some(members, chance)]["weight"] = chance.choice((0, 1, 2, 3))


def _fallback(settings: Settings, chance: random.Random) -> None:
    members = _cluster(settings, chance)["members"]
    member = members[_some(members, chance)]
    member["fallback"] = not member["fallback"]


def _add_member(settings: Settings, chance: random.Random) -> None:
    members = _cluster(settings, chance)["members"]
    free = sorted(set(ADDRESSES) - {member["address"] for member in members.values()})
    if len(members) < 5:
        members.setdefault(f"m{chance.randrange(10)}",
                           {"address": chance.choice(free), "weight": 1, "fallback": chance.random() < 0.2})


def _remove_member(settings: Settings, chance: random.Random) -> None:
    members = _cluster(settings, chance)["members"]
    if len(members) > 1:
        del members[_some(members, chance)]


def _add_cluster(settings: Settings, chance: random.Random) -> None:
    used = {each["address"] for each in settings["clusters"].values()}
    number = next(number for number in range(20) if f"203.0.113.{10 + number}" not in used)
    if len(settings["clusters"]) < 4:
        settings["clusters"].setdefault(f"c{number}", cluster(chance, number))


def _remove_cluster(settings: Settings, chance: random.Random) -> None:
    if len(settings["clusters"]) > 1:
        del settings["clusters"][_some(settings["clusters"], chance)]


def _sticky(settings: Settings, chance: random.Random) -> None:
    services = _cluster(settings, chance)["services"]
    each = services[_some(services, chance)]
    each["sticky"] = not each["sticky"]


def _port(settings: Settings, chance: random.Random) -> None:
    services = _cluster(settings, chance)["services"]
    _place(services, services[_some(services, chance)], chance.randrange(80, 96), None)


def _range(settings: Settings, chance: random.Random) -> None:
    services = _cluster(settings, chance)["services"]
    it = services[_some(services, chance)]
    _place(services, it, it["port"], chance.choice((1, 2, 3)))


def _place(services: Settings, it: Settings, port: int, ports: int | None) -> None:
    """Other ports for it, unless they are another's."""
    wanted = range(port, port + (ports or it["ports"]))
    if not any(other is not it and set(wanted) & set(range(other["port"], other["port"] + other["ports"]))
               for other in services.values()):
        it["port"], it["ports"] = port, len(wanted)


def _same_as(settings: Settings, chance: random.Random) -> None:
    _same(_cluster(settings, chance)["services"], chance)


def _same(services: Settings, chance: random.Random) -> None:
    """The check of one stands for that of another, or does so no more."""
    it, other = services[_some(services, chance)], _some(services, chance)
    if it["same"] is not None or services[other] is it:
        it["same"] = None
    elif services[other]["same"] is None and not any(each["same"] for each in services.values()):
        it["same"] = other


def _member_port(settings: Settings, chance: random.Random) -> None:
    services = _cluster(settings, chance)["services"]
    services[_some(services, chance)]["member_port"] = chance.randrange(8080, 8084)


def _check(settings: Settings, chance: random.Random) -> None:
    services = _cluster(settings, chance)["services"]
    services[_some(services, chance)]["check"] = check(chance)


def _keep(settings: Settings, chance: random.Random) -> None:
    each = _cluster(settings, chance)
    each["keep"] = not each["keep"]


def _interface(settings: Settings, chance: random.Random) -> None:
    settings["interface"] = "em2" if settings["interface"] == "em0" else "em0"


def _tag(settings: Settings, chance: random.Random) -> None:
    settings["tag"] = chance.choice(("l4ip", "gw2", None))


def _purge(settings: Settings, chance: random.Random) -> None:
    settings["purge"] = chance.choice(PURGES)


def _flap(settings: Settings, chance: random.Random) -> None:
    settings["flap"] = chance.choice(FLAPS)


def _on_stop(settings: Settings, chance: random.Random) -> None:
    settings["on_stop"] = "remove" if settings["on_stop"] == "keep" else "keep"


def _resets(settings: Settings, chance: random.Random) -> None:
    settings["resets"] = None if settings["resets"] else {
        "interface": "em1", "source": chance.choice(("ipmon", "counters")), "action": chance.choice(("refused", "any"))}


EDITS = [_rename_member, _rename_member, _rename_service, _rename_cluster, _swap_addresses, _swap_addresses, _move,
         _weight, _fallback, _add_member, _remove_member, _remove_member, _add_cluster, _remove_cluster, _sticky, _port,
         _range, _range, _same_as, _same_as, _member_port, _check, _keep, _interface, _tag, _purge, _flap,
         _on_stop, _resets]


def text(settings: Settings, directory: Path) -> str:
    """The file."""
    tools = {name: f"{directory}/bin/{name}" for name in ("ipnat", "ipf", "ipfstat", "ipmon")}
    whole: Settings = {
        "pidfile": f"{directory}/pid", "control": f"{directory}/sock", "state": f"{directory}/state.json",
        "ipfilter": {"interface": settings["interface"], "tag": settings["tag"] or False, "resync": settings["resync"],
                     "on_stop": settings["on_stop"], **tools,
                     **({} if settings["purge"] is None else {"purge": settings["purge"]})},
        **({} if settings["flap"] is None else {"defaults": {"flap": settings["flap"]}}),
        "clusters": {name: {
            "address": each["address"], "when_all_down": "keep" if each["keep"] else "remove",
            "services": {service: {
                "port": _ports(it), "member_port": it["member_port"], "sticky": it["sticky"],
                "check": {"same_as": it["same"]} if it["same"] is not None else (
                    it["check"] | ({"port": it["member_port"]} if it["ports"] > 1 else {})
                    | ({"command": [f"{directory}/bin/check", "{address}", "{port}"]}
                       if it["check"]["type"] == "exec" else {}))}
                for service, it in each["services"].items()},
            "members": each["members"]} for name, each in settings["clusters"].items()}}
    if settings["resets"]:
        whole["resets"] = settings["resets"]
    return yaml.safe_dump(whole, sort_keys=False)


def _ports(it: Settings) -> str:
    return str(it["port"]) if it["ports"] == 1 else f"{it['port']}-{it['port'] + it['ports'] - 1}"


def _checked(settings: Settings, cluster: str, service: str) -> Settings:
    """The service whose check it is."""
    services: Settings = settings["clusters"][cluster]["services"]
    return services[services[service]["same"] or service]      # type: ignore[no-any-return]


def names(settings: Settings) -> dict[str, tuple[str, int]]:
    """Every endpoint, and where it is checked."""
    return {f"{cluster}/{service}/{member}": (where["address"], _checked(settings, cluster, service)["member_port"])
            for cluster, each in settings["clusters"].items() for service in each["services"]
            for member, where in each["members"].items()}


def kin(settings: Settings, name: str) -> list[str]:
    """The other endpoints of its service that may serve in its place: for a member no fallback does."""
    cluster, service, member = name.split("/")
    members = settings["clusters"][cluster]["members"]
    return [f"{cluster}/{service}/{other}" for other, where in members.items()
            if other != member and where["weight"] and (members[member]["fallback"] or not where["fallback"])]


def groups(settings: Settings) -> list[str]:
    return [f"{cluster}/{service}" for cluster, each in settings["clusters"].items() for service in each["services"]]


def rules(settings: Settings, name: str) -> set[Rule]:
    """What an endpoint has in the kernel while it serves."""
    cluster, service, member = name.split("/")
    each = settings["clusters"][cluster]
    it, where, tag = each["services"][service], each["members"][member], settings["tag"]
    tags = ["" if tag is None else tag if nth == 1 else f"{tag}.{nth}" for nth in range(1, where["weight"] + 1)]
    return {(settings["interface"], each["address"], _ports(it), where["address"], it["member_port"], "tcp",
             it["sticky"], word) for word in tags}


def serving(settings: Settings, group: str, up: Collection[str]) -> list[str]:
    """Who gets connections while these are up."""
    cluster = group.partition("/")[0]
    members = settings["clusters"][cluster]["members"]
    there = [f"{group}/{member}" for member, where in members.items() if f"{group}/{member}" in up and where["weight"]]
    return [name for name in there if not members[name.rpartition("/")[2]]["fallback"]] or there


def weighs(settings: Settings, name: str) -> bool:
    cluster, _, member = name.split("/")
    return bool(settings["clusters"][cluster]["members"][member]["weight"])


def state(settings: Settings, name: str, behaviour: str) -> str:
    """What an endpoint is found to be, in the end, whose member behaves so."""
    cluster, service, _ = name.split("/")
    if behaviour == "leaves" and _checked(settings, cluster, service)["check"]["type"] != "exec":
        return "draining"
    return "up" if behaviour == "good" else "down"


def may_cut(settings: Settings, name: str, behaviour: str) -> bool:
    """Whether the sessions of one that is down may be ended."""
    cluster, service, _ = name.split("/")
    it, purge = settings["clusters"][cluster]["services"][service], settings["purge"]
    if purge is None:
        purge = True if it["sticky"] else "dead"
    kind = _checked(settings, cluster, service)["check"]["type"]
    leaves = behaviour == "leaves" and kind != "exec"         # whose exit status says no more than that
    return behaviour in ("refuses", "silent") if purge == "dead" else bool(purge) and not leaves


def keeps(settings: Settings, group: str) -> bool:
    return bool(settings["clusters"][group.partition("/")[0]]["keep"])


def read(line: str) -> Rule | None:
    """A rule as ipnat lists it."""
    found = LISTED.match(line)
    if found is None:
        return None
    interface, vip, ports, target, inside, protocol, sticky, tag = found.groups()
    return interface, vip, ports, target, int(inside), protocol, bool(sticky), tag or ""
