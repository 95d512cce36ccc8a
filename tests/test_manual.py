"""The manuals against the code: every option, key, default, log code, event, metric and message of the one is in the
other, and nothing that is not there.

And the sample configuration: it is valid as it stands, and with every setting that it shows switched on.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
from dataclasses import fields

import pytest

from l4ipd import main
from l4ipd.checks import verdict
from l4ipd.config import check_section, members, parse, services, warnings
from l4ipd.config.values import span
from l4ipd.control import client, connection
from l4ipd.model import Check, Config, Ipfilter, Log, Member, Resets, Service
from l4ipd.report import notify
from l4ipd.report.status import Row
from l4ipd.resets import reaction
from support import ROOT
from support.sample_conf import SAMPLE, switched_on

MANUALS = ["l4ipd.8", "l4ipctl.8", "l4ip.conf.5", "l4ip-gateways.7"]


def manual(name: str) -> str:
    return (ROOT / "man" / name).read_text()


def sections(text: str) -> dict[str, str]:
    """The subsections of a manual, by heading."""
    found = re.split(r"^\.S[sh] (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def keys(heading: str) -> list[str]:
    """The keys that l4ip.conf(5) explains under ``heading``, in its order."""
    return re.findall(r"^\.It Ic (\w+)", sections(manual("l4ip.conf.5"))[heading], re.MULTILINE)


@pytest.mark.parametrize("name", MANUALS)
def test_mandoc_has_nothing_against_it(name: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-Tlint", str(ROOT / "man" / name)], capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines()
            if "referenced manual not found" not in line] == [], "that depends on what is installed"


# -- options

def options(words: argparse.ArgumentParser) -> set[str]:
    """Every option of a command, those of its subcommands too."""
    found = set()
    for action in words._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                found |= options(sub)
    return found


def commands(words: argparse.ArgumentParser) -> set[str]:
    """What can be chosen in the place of a command."""
    return {str(choice) for action in words._actions if not action.option_strings for choice in action.choices or ()}


def manual_options(name: str) -> set[str]:
    """``-c``, ``--demo``: every option that a ``.It`` line of the manual names."""
    found = set()
    for line in re.findall(r"^\.It (.*\bFl .*)$", manual(name), re.MULTILINE):
        for words in re.findall(r"Fl ([^\"]+?)(?= (?:Ar|Op|Fl|Cm)\b|$)", line):
            found |= {f"-{word}" for word in re.split(r"[ ,]+", words) if word}
    return found


def test_options_of_l4ipd() -> None:
    assert manual_options("l4ipd.8") == options(main.parser())


def test_options_and_commands_of_l4ipctl() -> None:
    words = client.parser()
    assert manual_options("l4ipctl.8") == options(words)
    for heading in ("DESCRIPTION", "JSON"):
        told = " ".join(re.findall(r"^\.It (Cm .*)$", sections(manual("l4ipctl.8"))[heading], re.MULTILINE))
        assert set(re.findall(r"Cm (\w+)", told)) == commands(words)


def test_defaults_of_options() -> None:
    assert f".Pa {main.parser().get_default('config')}" in manual("l4ipd.8")
    assert f".Pa {connection.DEFAULT_SOCKET} " in manual("l4ipctl.8")
    assert Config().control.path == connection.DEFAULT_SOCKET


def test_json_keys_of_show() -> None:
    told = sections(manual("l4ipctl.8"))["JSON"].partition(".It Cm show\n")[2].partition(".It Cm")[0]
    assert re.findall(r"\w+", " ".join(re.findall(r"^\.Li (.*)$", told, re.MULTILINE))) == list(
        Row("", "", "", "", 0.0, "", 0.0).data())


def test_variables_of_the_service() -> None:
    script = (ROOT / "rc.d/l4ip").read_text()
    shown = sections(manual("l4ipd.8"))["EXAMPLES"]
    assert set(re.findall(r"^#?(l4ip_\w+)=", shown, re.MULTILINE)) == set(
        re.findall(r"^# (l4ip_\w+) ", script, re.MULTILINE))


# -- keys

@pytest.mark.parametrize("heading, known", [
    ("Top level", parse.TOP),
    ("ipfilter", parse.IPFILTER),
    ("resets", parse.RESETS),
    ("A cluster", parse.CLUSTER),
    ("A service", services.SERVICE),
    ("Members from files and from the DNS", ("file", "dns")),
    ("A member", members.MEMBER),
    ("Keys of every check", check_section.COMMON),
    *[(kind, check_section.OWN[kind]) for kind in check_section.TYPES
      if kind not in ("https", "ping", *check_section.NAMED)],
    ("https", [key for key in check_section.OWN["https"] if key not in check_section.HTTP]),
    ("ping", ()),
    ("Dialogs", check_section.VERBS),
])
def test_keys(heading: str, known: tuple[str, ...]) -> None:
    assert sorted(keys(heading)) == sorted(known)


@pytest.mark.parametrize("kind", check_section.NAMED)
def test_keys_of_protocols_by_name(kind: str) -> None:
    """What several have is told once, with its kinds, as far as not all of them have it."""
    common = set(keys("Protocols by name"))
    assert set(keys(kind)) | common & set(check_section.OWN[kind]) == set(check_section.OWN[kind])
    assert common <= {key for each in check_section.NAMED for key in check_section.OWN[each]}


def test_every_type_of_check_has_a_section() -> None:
    assert set(check_section.TYPES) <= set(sections(manual("l4ip.conf.5")))
    assert f".It Ic type : Li {' | '.join(check_section.TYPES)}\n" in manual("l4ip.conf.5")


def word(value: object) -> str:
    """A default in the words of the configuration."""
    if value is None or value is False:
        return "no"
    if isinstance(value, bool | float):
        return "yes" if value is True else span(value)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join(f"{low}-{high}" for low, high in value)
    if isinstance(value, tuple):
        return " ".join(value) or "[]"
    return str(value)


def defaults() -> list[tuple[str, str, str]]:
    """Heading, key, default: from the model. Keys whose default is computed or is a section are told in words."""
    found = []
    told = {"control", "log", "resets", "given", "ipfilter", "clusters", "fast_interval", "down_interval",
            "close", "port", "sni", "host", "body", "send", "expect", "user", "dialog", "headers", "command",
            "verify_host", "cert", "key", "data", "send_proxy", "source", "files", "include", "origin"}
    check = [(kind, key) for kind in check_section.TYPES for key in check_section.OWN[kind]
             if kind not in check_section.NAMED and (kind != "https" or key not in check_section.HTTP)]
    check += [("Keys of every check", key) for key in check_section.COMMON]
    plain = {each.name: each.default for each in fields(Check)}
    found += [(heading, key, word(plain[key])) for heading, key in check if key not in told and key != "type"]
    for heading, model in (("Top level", Config()), ("ipfilter", Ipfilter()), ("resets", Resets("")),
                           ("A member", Member("", ""))):
        required = {"interface", "name", "address"}
        found += [(heading, each.name, word(getattr(model, each.name))) for each in fields(model)
                  if each.name not in told and each.name not in required]
    log = Log()
    return [*found, ("Top level", "control", Config().control.path),
            ("Top level", "log", f"{{facility: {log.facility}, level: {log.level}}}"),
            ("A service", "protocol", "tcp"), ("A service", "sticky", "no"), ("A cluster", "when_all_down", "remove")]


@pytest.mark.parametrize("heading, key, default", defaults())
def test_defaults_of_keys(heading: str, key: str, default: str) -> None:
    line = re.search(rf"^\.It Ic {key}\b.*$", sections(manual("l4ip.conf.5"))[heading], re.MULTILINE)
    assert line is not None
    said = re.search(r" Pq default Li (.*)$", line[0])
    assert said is not None
    assert said[1].strip('"') == default


def test_the_model_agrees_with_the_defaults_that_have_no_class() -> None:
    text = ("ipfilter: {interface: em0}\n"
            "clusters: {a: {address: 192.0.2.1, services: {b: {port: 1}}, members: {c: 10.0.0.1}}}")
    cluster = parse.parse(text, "").clusters[0]
    check = Check("tcp")
    assert cluster.services == (Service("b", 1, "tcp", 1, False, (check,)),)
    assert not cluster.keep


# -- log codes

def test_codes() -> None:
    section = sections(manual("l4ipd.8"))["THE LOG"]
    assert re.findall(r"^\.It Li (\w+)$", section, re.MULTILINE) == list(verdict.CODES)


def test_metrics() -> None:
    section = sections(manual("l4ipd.8"))["STATUS PAGE AND METRICS"]
    assert set(re.findall(r"^\.It Li (\w+)$", section, re.MULTILINE)) == set(re.findall(
        r'"(l4ip_\w+)"', (ROOT / "l4ipd/web/metrics.py").read_text()))
    uses = section.partition(".It Li l4ip_resets\n")[2].partition(".It Li")[0]
    assert set(re.findall(r"^\.Li (\w+)", uses, re.MULTILINE)) == {"use", "used", *reaction.WORDS}


# -- events and messages

def literals(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def sources() -> list[ast.Module]:
    """The daemon's own code, without the sandbox's tools."""
    return [ast.parse(path.read_text()) for path in sorted((ROOT / "l4ipd").rglob("*.py"))
            if ROOT / "l4ipd/sandbox" not in path.parents or path.name == "process.py"]


def calls() -> list[ast.Call]:
    """Every call in the daemon that has a first argument."""
    return [node for tree in sources() for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]


def events() -> set[str]:
    """The kind of every event that some code tells."""
    found = {"up", "down", "draining", "held"}      # as a monitor is seen
    for call in calls():
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name == "Event" or name in ("tell", "say", "_say") and isinstance(call.args[0], ast.Constant):
            found |= literals(call.args[0])
    return found


def test_events() -> None:
    section = sections(manual("l4ip.conf.5"))["NOTIFY PROGRAMS"]
    told = set(re.findall(r"^\.It Li ([\w-]+)$", section, re.MULTILINE))
    assert told == events()
    assert all(kind in str(notify.__doc__) for kind in told)


def test_environment_of_notify_programs() -> None:
    section = sections(manual("l4ip.conf.5"))["NOTIFY PROGRAMS"]
    source = (ROOT / "l4ipd/report/notify.py").read_text()
    assert set(re.findall(r"^\.It Ev (L4IP_\w+)$", section, re.MULTILINE)) == set(re.findall(r'"(L4IP_\w+)"', source))


def plain(text: str) -> str:
    """A message with a mark for everything that varies."""
    return re.sub(r"%\.?\d*[sdf]", "%", text)


def said(node: ast.AST) -> str:
    """The text that an expression makes, f-strings and sums too; a mark for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return plain(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(said, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return said(node.left) + said(node.right)
    return "%"


def messages() -> list[str]:
    """Every text in the daemon."""
    return [said(node) for tree in sources() for node in ast.walk(tree)
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)]


@pytest.mark.parametrize("message", re.findall(r"^\.It (.*)$", sections(manual("l4ipd.8"))["DIAGNOSTICS"],
                                               re.MULTILINE))
def test_messages(message: str) -> None:
    assert any(plain(message.strip('"')) in known for known in messages())


# -- the sample


@pytest.mark.parametrize("text", [SAMPLE, switched_on(SAMPLE)], ids=["as it stands", "everything switched on"])
def test_sample(text: str) -> None:
    parsed = parse.parse(text, "l4ip.conf.sample")
    assert warnings.warnings(parsed) == []


def test_sample_shows_every_key() -> None:
    shown = set(re.findall(r"(?:^|[{,]|- ) *(\w+):", switched_on(SAMPLE), re.MULTILINE))
    known = {*parse.TOP, *parse.IPFILTER, *parse.RESETS, *parse.CLUSTER, *services.SERVICE, *members.MEMBER,
             *parse.READY, *check_section.KEYS, "send", "expect"}
    assert known - shown == set()


def test_sample_shows_the_defaults() -> None:
    """What is commented out at the top, in ipfilter and in defaults says what holds anyway."""
    plain = parse.parse(SAMPLE, "")
    shown = parse.parse(switched_on(SAMPLE), "")
    for key in ("pidfile", "control", "state", "log", "http", "notify", "ipfilter"):
        assert getattr(shown, key) == getattr(plain, key)
    tcp = next(endpoint for endpoint in shown.endpoints() if endpoint.name == "mail/pop3/mail1").checks[0]
    assert (tcp.interval, tcp.timeout, tcp.rise, tcp.fall, tcp.fast_interval, tcp.down_interval) == (
        Check("").interval, Check("").timeout, Check("").rise, Check("").fall, Check("").fast_interval,
        Check("").down_interval)
    assert shown.resets == Resets("em1")


@pytest.mark.parametrize("example", re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", manual("l4ip.conf.5"),
                                               re.MULTILINE | re.DOTALL))
def test_examples_of_the_manual(example: str) -> None:
    if example.startswith("check:"):
        indented = "".join(f"        {line}\n" for line in example.splitlines())
        protocol = "udp" if "type: udp" in example else "tcp"
        example = ("ipfilter: {interface: em0}\nclusters:\n  a:\n    address: 192.0.2.1\n    members: {b: 10.0.0.1}\n"
                   f"    services:\n      c:\n        port: 25\n        protocol: {protocol}\n{indented}")
    parse.parse(example, "l4ip.conf.5")


# -- more than one gateway

def test_the_examples_for_several_gateways_are_those_that_are_installed() -> None:
    """And so those that the tests run."""
    shown = re.findall(r"^\.Bd -literal\n(.*?)^\.Ed", manual("l4ip-gateways.7"), re.MULTILINE | re.DOTALL)
    assert sorted(shown) == sorted(path.read_text() for path in (ROOT / "etc/gateways").iterdir())
