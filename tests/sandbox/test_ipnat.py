"""The sandbox's ipnat, row for row against what the real one did (samples/)."""

from __future__ import annotations

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.sandbox_tools import Lab, Result, blocks, sample

BASE = "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.{} port 8080 tcp round-robin\n"


def forms() -> list[dict[str, str]]:
    rows = []
    for block in blocks("ipnat-forms.txt"):
        row: dict[str, str] = {}
        for line in block:
            match = re.match(r"(in|-nv|add|listed|listed -R|rm\(in\)|rm\(list\)) *: ?(.*)", line)
            if match:
                name = match.group(1)
                row[name] = match.group(2)
            else:
                row[name] += "\n" + line
        rows.append(row)
    return rows


FORMS = forms()


def test_all_forms_are_read() -> None:
    assert len(FORMS) == 64
    assert sum("listed" not in row for row in FORMS) == 6


@pytest.mark.parametrize("row", FORMS, ids=lambda row: row["in"])
def test_form(row: dict[str, str]) -> None:
    lab, rule = Lab(), row["in"] + "\n"
    dry = lab.ipnat("-n", "-v", "-f", "-", stdin=rule)
    if dry.status:
        assert row["-nv"] == f"- rc={dry.status} {dry.stderr.rstrip()}"
    else:
        assert row["-nv"] == f"{dry.stdout.rstrip()}  {dry.stderr.rstrip()}"
    added = lab.ipnat("-f", "-", stdin=rule)
    assert row["add"] == f"rc={added.status} {added.stderr.rstrip()}"
    if "listed" not in row:
        assert lab.listed() == []
        return
    assert lab.listed() == [row["listed"]]
    if "listed -R" in row:
        assert lab.listed("-R") == ast.literal_eval(row["listed -R"])
    removed = lab.ipnat("-r", "-f", "-", stdin=rule)
    assert row["rm(in)"] == f"rc={removed.status} {removed.stderr.rstrip()} left={len(lab.listed())}"
    lab.ipnat("-f", "-", stdin=rule)
    removed = lab.ipnat("-r", "-f", "-", stdin=row["listed"] + "\n")
    assert row["rm(list)"] == f"rc={removed.status} {removed.stderr.rstrip()} left={len(lab.listed())}"


EXITS = [                               # name in remove-and-errors.txt, words, standard input
    ("add", "-f -", BASE.format(2)),
    ("add again (duplicate)", "-f -", BASE.format(2)),
    ("remove", "-r -f -", BASE.format(2)),
    ("remove again (absent)", "-r -f -", BASE.format(2)),
    ("remove -p (absent)", "-rp -f -", BASE.format(2)),
    ("-p without -r", "-p -f -", BASE.format(2)),
    ("-n with a bad rule", "-n -f -", "rdr ext0 nonsense\n"),
    ("syntax error", "-f -", "nonsense\n"),
    ("unknown host", "-f -", "rdr ext0 no-such-host.invalid port 80 -> 10.0.0.2 port 8080 tcp round-robin\n"),
    ("empty input", "-f -", ""),
    ("only a comment", "-f -", "# nothing\n"),
    ("blank line only", "-f -", "\n"),
    ("unknown interface name", "-f -", BASE.format(3).replace("ext0", "nosuch0")),
    ("missing file", "-f /nonexistent", ""),
    ("-h", "-h", ""),
    ("bad option", "-Q", ""),
    ("-?", "-?", ""),
]


def test_exit_codes_and_messages() -> None:
    """Every line of the section, in its order, on one kernel."""
    section = sample("remove-and-errors.txt").partition("== several rules")[0]
    rows = re.findall(r"^(\S.*?)  +exit (\d+)  stdout=(.*?) stderr=(.*)$", section, re.M)
    assert [row[0] for row in rows] == [row[0] for row in EXITS]
    lab = Lab()
    for (name, status, stdout, stderr), (_, words, stdin) in zip(rows, EXITS, strict=True):
        result = lab.ipnat(*words.split(), stdin=stdin)
        expected = int(status), ast.literal_eval(stdout), ast.literal_eval(stderr)
        assert (result.status, result.stdout, result.stderr) == expected, name
        if name == "unknown host":
            assert lab.listed() == ["rdr ext0 0/32 port 80 -> 10.0.0.2/32 port 8080 tcp round-robin"]


def loaded(lab: Lab) -> list[str]:
    return [re.findall(r"-> ([0-9.]+)", rule)[0] for rule in lab.listed()]


def rules(*members: int) -> str:
    return "".join(BASE.format(member) for member in members)


def test_the_lost_rule() -> None:
    """Everything under "several rules in one ipnat -f -"."""
    lab = Lab()
    lab.ipnat("-f", "-", stdin=rules(2))
    result = lab.ipnat("-f", "-", stdin=rules(3, 2, 4, 5, 6, 7))
    assert (result.status, result.stderr) == (
        1, "60007:1:ioctl(add/insert nat rule)(line 1) NAT rule already exists\n")
    assert loaded(lab) == ["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6", "10.0.0.7"]
    lab.ipnat("-f", "-", stdin=rules(4))
    result = lab.ipnat("-r", "-f", "-", stdin=rules(2, 99, 3, 4, 5))
    assert result.stderr == "60010:2:ioctl(delete nat rule) NAT rule could not be found\n"
    assert loaded(lab) == ["10.0.0.3", "10.0.0.6", "10.0.0.7"]
    assert result.status == 1


@pytest.mark.parametrize("before, fed, after", [
    ((2,), (2, 3), [2]),
    ((2,), (3, 2), [2, 3]),
    ((2,), (2, 3, 4), [2, 4]),
    ((2, 3), (2, 3, 4), [2, 3, 4]),     # the second one is lost, so it cannot fail
])
def test_lost_after_a_duplicate(before: tuple[int, ...], fed: tuple[int, ...], after: list[int]) -> None:
    lab = Lab()
    lab.ipnat("-f", "-", stdin=rules(*before))
    assert lab.ipnat("-f", "-", stdin=rules(*fed)).status == 1
    assert loaded(lab) == [f"10.0.0.{member}" for member in after]


def test_the_duplicates_line_is_that_of_the_rule_that_exists() -> None:
    lab = Lab()
    lab.ipnat("-f", "-", stdin="#\n#\n#\n#\n" + rules(2))
    result = lab.ipnat("-f", "-", stdin="#\n" + rules(2))
    assert result.stderr == "60007:5:ioctl(add/insert nat rule)(line 5) NAT rule already exists\n"


def test_a_syntax_error_keeps_what_came_before() -> None:
    lab = Lab()
    text = rules(2, 3) + BASE.format(4).replace("port 80", "prt 80") + rules(5)
    result = lab.ipnat("-f", "-", stdin=text)
    assert (result.status, result.stderr) == (1, 'syntax error error at "prt", line 3\n')
    assert loaded(lab) == ["10.0.0.2", "10.0.0.3"]


def test_what_must_match() -> None:
    section = sample("remove-and-errors.txt").partition("== what has to match")[2].partition("\n== ")[0]
    rows = re.findall(r"^(rdr .*?)  +remove: (\w+)   add beside the base rule: (\w+)$", section, re.M)
    assert len(rows) == 18
    for rule, remove, add in rows:
        lab = Lab()
        lab.ipnat("-f", "-", stdin=rules(2))
        assert lab.ipnat("-r", "-f", "-", stdin=rule + "\n").status == (remove == "miss"), rule
        lab = Lab()
        lab.ipnat("-f", "-", stdin=rules(2))
        assert lab.ipnat("-f", "-", stdin=rule + "\n").status == (add == "EEXIST"), rule


INPUTS = {
    "rule, no newline at end": rules(2).rstrip("\n"),
    "rule + blank line": rules(2) + "\n",
    "blank, rule": "\n" + rules(2),
    "comment, rule": "# c\n" + rules(2),
    "comment + blank + rule": "# c\n\n" + rules(2),
    "rule, comment, blank, rule, blank": rules(2) + "# c\n\n" + rules(3) + "\n",
    "CRLF": rules(2).replace("\n", "\r\n"),
    "two rules on one line with ;": rules(2).rstrip("\n") + "; " + rules(3),
    "two rules on one line without ;": rules(2).rstrip("\n") + " " + rules(3),
    "rule split over two lines": rules(2).replace(" -> ", "\n -> "),
    "backslash continuation": rules(2).replace(" -> ", " \\\n -> "),
    "leading blanks": "   " + rules(2),
    "tabs": rules(2).replace(" ", "\t"),
    "NUL byte": rules(2) + "\0\n",
    "variable": 'target="10.0.0.2";\n' + rules(2).replace("10.0.0.2", "$target"),
    "rule then garbage word": rules(2) + "garbage\n",
}


def test_input_quirks() -> None:
    rows = re.findall(r"^(.*?)  +exit (\d) stderr='(.*)' loaded=(\d)$", sample("ipnat-input-misc.txt"), re.M)
    assert [row[0] for row in rows] == list(INPUTS)
    for name, status, stderr, count in rows:
        lab = Lab()
        result = lab.ipnat("-f", "-", stdin=INPUTS[name])
        assert (result.status, result.stderr) == (int(status), stderr.replace("\\n", "\n")), name
        assert len(lab.listed()) == int(count), name


def test_a_thousand_rules() -> None:
    lab = Lab()
    text = "".join(f"rdr ext0 203.0.113.1/32 port {port} -> 10.0.0.2 port 8080 tcp\n" for port in range(1000, 2000))
    assert lab.ipnat("-f", "-", stdin=text).status == 0
    assert len(lab.listed()) == 1000
    assert lab.ipnat("-r", "-f", "-", stdin=text).status == 0
    assert lab.listed() == []


MISC = ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin\n"
        "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.3 port 8080 tcp round-robin\n"
        "rdr ext0 inet6 2001:db8::1/128 port 80 -> fd00::2 port 8080 tcp round-robin\n"
        "map ext0 10.0.0.0/24 -> 0/32 portmap tcp/udp auto\n"
        "map ext0 10.0.0.0/24 -> 0/32\n"
        "bimap ext0 10.0.0.5/32 -> 203.0.113.5/32\n")


@pytest.mark.parametrize("words", ["-l", "-lh", "-lR", "-ln", "-lv", "-lhv"])
def test_listing(words: str) -> None:
    """The whole output, but for hashes and checksums, which nobody reads."""
    text = sample("ipnat-input-misc.txt")
    expected = text.partition(f"--- ipnat {words}  (exit 0)\n")[2].partition("\n--- ")[0]
    lab = Lab()
    assert lab.ipnat("-f", "-", stdin=MISC).status == 0
    lab.send(source_port=5000)
    lab.send("2001:db8:1::7", "2001:db8::1", source_port=5000)
    shown = lab.ipnat(words)
    unread = re.compile(r"(sumd \S+|hash \S+|ipsumd \S+)")
    assert unread.sub("", shown.stdout) == unread.sub("", expected)
    assert shown.status == 0


def test_foreign_rules_are_removed_in_their_own_words() -> None:
    lab = Lab()
    lab.ipnat("-f", "-", stdin=MISC)
    listed = lab.listed()
    for rule in listed:
        assert lab.ipnat("-r", "-f", "-", stdin=rule + "\n").status == 0
    assert lab.listed() == []


def test_disabled() -> None:
    lab = Lab()
    lab.kernel.enabled = False
    rows = re.findall(r"^(ipnat .*?)  +exit (\d+) stdout='' stderr='(.*)'$",
                      sample("ipnat-input-misc.txt").partition("disabled")[2], re.M)
    assert rows
    for command, status, stderr in rows[:2]:
        result = lab.ipnat(*command.split()[1:])
        assert (result.status, result.stderr) == (int(status), stderr.replace("\\n", "\n"))


@pytest.mark.parametrize("rule, listed", [
    ("rdr em0 203.0.113.1 port 80 -> 10.0.0.2 port 8080 udp round-robin tag a.2", None),
    ("RDR em0 203.0.113.1 PORT 80 -> 10.0.0.2 port 8080 TCP Round-Robin",
     "rdr em0 203.0.113.1/32 port 80 -> 10.0.0.2/32 port 8080 tcp round-robin"),
    ("map em0 10.0.0.0/8 -> 203.0.113.9/32 portmap tcp 1025:65000", None),
    ("map em0 from 10.0.0.0/8 ! to 10.0.0.0/8 -> 0/32", "map em0 from 10.0.0.0/8 ! to 10.0.0.0/8 -> 0/32"),
    ("rdr em0 from 198.51.100.0/255.255.255.0 port > 1023 to 203.0.113.1 port 80 >< 90 -> 10.0.0.2 port 81 tcp",
     "rdr em0 from 198.51.100.0/24 port > 1023 to 203.0.113.1/32 port 80 >< 90 -> 10.0.0.2/32 port 81 tcp"),
])
def test_other_peoples_rules(rule: str, listed: str | None) -> None:
    """From reading the grammar, not from samples: they are stored, and removed by what is listed."""
    lab = Lab()
    result = lab.ipnat("-f", "-", stdin=rule + "\n")
    assert (result.status, result.stderr) == (0, "")
    shown = lab.listed("-R")
    if listed is not None:
        assert shown == [listed]
    assert lab.ipnat("-r", "-f", "-", stdin=rule + "\n").status == 0
    lab.ipnat("-f", "-", stdin=shown[0] + "\n")
    assert lab.listed("-R") == shown


DAMAGE = """rdr em0 map bimap no rewrite in on from to any ! port = 80 70000 80-90 http -> 10.0.0.2 0/0
    10.0.0.2/24 10.0.0.300 fd00::2 0x10 tcp tcp/udp round-robin sticky tag purge age mssclamp proxy portmap auto netmask
    inet6 , ; { } $x x= ' \\ # \n \0 range src dst pool 1:2 <> lt all log pass flags S/SA keep state ( ) @0 with short
    icmp-type proto icmp level auth.info map-block ports bimap x='$x'; group head set-tag(log=1)"""
WORDS = st.sampled_from(DAMAGE.split(" "))
SEEDS = st.sampled_from([row["in"] for row in FORMS] + MISC.splitlines() + [
    "log in on int0 proto tcp from { 10.0.0.2, 10.0.0.3 } port = { 80, 443 } to any flags R/R set-tag(log=4711)",
    "pass in log first quick on ext0 proto tcp from any to any port = 8080 flags S keep state (strict) keep frags"])


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A rule with words taken out, put in and exchanged."""
    words = draw(SEEDS).split(" ")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(words)))
        words[at:at + draw(st.integers(0, 2))] = draw(st.lists(WORDS, max_size=2))
    return " ".join(words)


@given(st.lists(damaged(), max_size=3).map("\n".join) | st.text(max_size=80),
       st.sampled_from(["4.1", "5.1.2", "6.0.0"]))
def test_nothing_breaks_the_parsers(text: str, version: str) -> None:
    """Whatever is fed, both tools end with 0 or 1, and what they have loaded can be listed."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    lab = Lab(version)
    for tool in (lab.ipnat, lab.ipf):
        assert tool("-f", "-", stdin=text).status in (0, 1)
    assert len(lab.listed("-R")) == len(lab.kernel.nat.rules)
    assert lab.ipfstat("-ioR").status == 0
    lab.send()


@pytest.mark.parametrize("version", ["4.1", "5.1.2", "6.0.0"])
@pytest.mark.parametrize("target", [" port 9000", ""])
def test_ranges_of_ports_are_listed_and_removed_as_fed(version: str, target: str) -> None:
    """FACTS.md 3-14; without a port on the right, which 4.1 does not know, it is listed as ``port 0``."""
    lab = Lab(version)
    rule = f"rdr em0 203.0.113.1/32 port 8000-8010 -> 10.0.0.{{}}{target} tcp round-robin tag l4ip\n"
    fed = lab.ipnat("-f", "-", stdin=rule.format(2) + rule.format(3))
    if version == "4.1" and not target:
        assert fed.status == 1
        return
    assert fed == Result(0, "", "")
    right = ("" if version == "4.1" else "/32") + (target or " port 0")
    shown = [f"rdr em0 203.0.113.1/32 port 8000-8010 -> 10.0.0.{last}{right} tcp round-robin tag l4ip"
             for last in (2, 3)]
    assert lab.listed("-R") == shown
    assert lab.ipnat("-f", "-", stdin=rule.format(2).replace("8010", "8011")).stderr == "", "another rule"
    lab.ipnat("-r", "-f", "-", stdin=rule.format(2).replace("8010", "8011"))
    assert [lab.send(port=port) for port in (8000, 8003, 8010, 8011)] == (
        ["10.0.0.2 9000", "10.0.0.3 9003", "10.0.0.2 9010", ""] if target else
        ["10.0.0.2 8000", "10.0.0.3 8003", "10.0.0.2 8010", ""])
    assert lab.ipnat("-r", "-f", "-", stdin=rule.format(2)).stderr == ""
    assert lab.ipnat("-r", "-f", "-", stdin=shown[1] + "\n").stderr == ""
    assert lab.listed() == []
