"""The sandbox's ipf, ipfstat and log, row for row against what the real ones did (samples/)."""

from __future__ import annotations

import ast
import re

import pytest

from l4ipd.sandbox.filter.rule import Packet
from l4ipd.sandbox.kernel import REFUSED, RESET, UNREACHABLE
from l4ipd.sandbox.tools.ipmon import Style, ipmon, line_of
from l4ipd.sandbox.tools.run import WAIT
from support.sandbox_tools import TCP, UDP, Lab, sample

TEXT = sample("ipf-log-rules.txt")
FORMS = re.findall(r"^in    : (.*?) \| exit (\d) (.*)\n((?:  -?\S.*\n)*)", TEXT, re.M)


def test_all_forms_are_read() -> None:
    assert len(FORMS) == TEXT.count("\nin    :") == 26


@pytest.mark.parametrize("rule, status, stderr, lines", FORMS, ids=[row[0] for row in FORMS])
def test_form(rule: str, status: str, stderr: str, lines: str) -> None:
    lab = Lab()
    added = lab.ipf("-f", "-", stdin=rule + "\n")
    assert (added.status, added.stderr.rstrip()) == (int(status), stderr)
    listed = ""
    for name, expected in re.findall(r"^  (\S+) *: ?(.*)$", lines, re.M):
        if name.startswith("-"):
            shown = lab.ipfstat(name)
            assert " // ".join(shown.stdout.splitlines()).strip() == expected.replace("  //  ", " // ").strip()
            listed = shown.stdout if name in ("-i", "-6i") else listed
            continue
        gone = lab.ipf("-r", "-f", "-", stdin=rule + "\n" if name == "rm(in)" else listed)
        left = lab.ipfstat("-i").stdout + lab.ipfstat("-6i").stdout
        outcome = f"exit {gone.status} " + (f"{gone.stderr.rstrip()}; left: {left.rstrip()}" if left else "; gone")
        assert outcome == expected
        lab.ipf("-f", "-", stdin=rule + "\n")


LOG = "log in on int0 proto tcp from 10.0.0.{} port = 8080 to any flags R/R\n"
EXITS = [
    ("add", "-f -", LOG.format(2)),
    ("add again", "-f -", LOG.format(2)),
    ("remove", "-r -f -", LOG.format(2)),
    ("remove again", "-r -f -", LOG.format(2)),
    ("syntax error", "-f -", "nonsense\n"),
    ("empty", "-f -", ""),
    ("ipf without args", "", ""),
]


def test_exit_codes_and_messages() -> None:
    section = TEXT.partition("== exit codes\n")[2].partition("one bad")[0]
    rows = re.findall(r"^(\S.*?)  +exit (\d+)  stdout=(.*?) stderr=(.*)$", section, re.M)
    assert [row[0] for row in rows] == [row[0] for row in EXITS]
    lab = Lab()
    for (name, status, stdout, stderr), (_, words, stdin) in zip(rows, EXITS, strict=True):
        result = lab.ipf(*words.split(), stdin=stdin)
        expected = int(status), ast.literal_eval(stdout), ast.literal_eval(stderr)
        assert (result.status, result.stdout, result.stderr) == expected, name


def test_others_are_loaded_when_one_fails() -> None:
    lab = Lab()
    lab.ipf("-f", "-", stdin=LOG.format(2))
    result = lab.ipf("-f", "-", stdin=LOG.format(3) + LOG.format(2) + LOG.format(4) + LOG.format(5))
    assert (result.status, result.stderr) == (1, "32:2:ioctl(add/insert rule) rule already exists\n")
    assert re.findall(r"10\.0\.0\.(\d)", lab.ipfstat("-i").stdout) == ["2", "3", "4", "5"]


def test_inet6_option() -> None:
    lab = Lab()
    rule = "log in on int0 proto tcp from fd00::2 port = 8080 to any flags R/R\n"
    assert lab.ipfstat("-6i").stderr == "# empty list for ipfilter(in)\n"
    assert lab.ipf("-6", "-f", "-", stdin=rule).status == 0
    assert lab.ipfstat("-i").stdout == ""
    assert lab.ipf("-r", "-6", "-f", "-", stdin=rule).status == 0
    result = lab.ipf("-6", "-f", "-", stdin=LOG.format(2))
    assert (result.status, result.stderr) == (1, 'syntax error error at "port", line 1\n')


def test_insertion() -> None:
    section = TEXT.partition("== @N insertion\n")[2].partition("three inserts")[0]
    rows = re.findall(r"^'(.*?)' exit (\d)  \| (.*)\n.*\n.*$", section, re.M)
    assert len(rows) == 5
    for prefix, status, expected in rows:
        lab = Lab()
        lab.ipf("-f", "-", stdin="pass in quick on int0 all\nblock in on ext0 all\n")
        assert lab.ipf("-f", "-", stdin=prefix + LOG.format(2)).status == int(status)
        assert " // ".join(lab.ipfstat("-in").stdout.splitlines()) == expected
        for again in ("", prefix):
            assert lab.ipf("-r", "-f", "-", stdin=again + LOG.format(2)).status == 0
            assert lab.ipfstat("-i").stdout.count("\n") == 2
            lab.ipf("-f", "-", stdin=prefix + LOG.format(2))
    expected = TEXT.partition("three inserts with @0: ")[2].partition("\n\n")[0]
    lab = Lab()
    lab.ipf("-f", "-", stdin="pass in quick on int0 all\nblock in on ext0 all\n")
    for member in (2, 3, 4):
        lab.ipf("-f", "-", stdin="@0 " + LOG.format(member))
    assert lab.ipfstat("-in").stdout.rstrip() == expected


def refuse(lab: Lab, kind: str = REFUSED, port: int = 5000) -> None:
    """A relayed connection whose member answers with a RST."""
    flow = TCP, "198.51.100.7", port, "203.0.113.1", 80
    session = lab.kernel.nat.packet(flow)
    assert session is not None
    lab.kernel.opened(session)
    lab.kernel.from_member(session, kind)
    lab.kernel.nat.flush()


def read(lab: Lab, style: Style | None = None) -> list[str]:
    """The lines that a reader gets, without the date."""
    return [line_of(record, style or Style(verbose=True)).split(" ", 2)[2] for record in lab.kernel.log.take()]


def rdr_lab(rules: str) -> Lab:
    lab = Lab()
    lab.ipnat("-f", "-", stdin="rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin\n")
    loaded = lab.ipf("-f", "-", stdin=rules)
    assert (loaded.status, loaded.stderr) == (0, "")
    return lab


VERDICTS = re.findall(r"^default (?:pass|block) +(.*?) +RST: \w+ +logged: (\[.*\])$", TEXT, re.M)
B = "block in on int0 proto tcp from 10.0.0.2 to any\n"
L = LOG.format(2)
PASS = "pass in {}on int0 proto tcp from any to any{}\n"
SETS = {
    "no rules": "", "log only": L, "log quick only": L.replace("log in", "log in quick"), "block, log": B + L,
    "log, block": L + B, "pass, log": PASS.format("", "") + L, "log, pass": L + PASS.format("", ""),
    "log quick, block": L.replace("log in", "log in quick") + B, "pass quick, log": PASS.format("quick ", "") + L,
    "block quick, log": B.replace("block in", "block in quick") + L,
    "@0 log before pass quick": PASS.format("quick ", "") + "@0 " + L,
    "@0 log before block quick": B.replace("block in", "block in quick") + "@0 " + L,
}


@pytest.mark.parametrize("name, logged", [row for row in VERDICTS if "keep state" not in row[0]])
def test_who_gets_to_log(name: str, logged: str) -> None:
    """Rules without state: the lines that the samples show, for the same rule sets."""
    lab = rdr_lab(SETS[name])
    refuse(lab)
    assert read(lab, Style()) == ast.literal_eval(logged)


STATE = [block.splitlines() for block in sample("keep-state-single-reader.txt").split("-- ")[1:]]


@pytest.mark.parametrize("block", STATE, ids=lambda block: block[0])
def test_keep_state_hides(block: list[str]) -> None:
    """Each block of the sample: a refused SYN, then a reset connection, with these rules besides ours."""
    others = re.sub(r" *; *", "\n", block[1].partition("rules: ")[2]).replace("(none)", "")
    ours = ("@0 log in on int0 proto tcp from 10.0.0.2 port = 8080 to any flags R/R set-tag(log=4711)\n"
            "count in on int0 proto tcp from 10.0.0.2 port = 8080 to any flags R/R\n")
    lab = rdr_lab(others + ours)
    refuse(lab)
    refuse(lab, RESET, 5001)
    lines = read(lab)
    text = "\n".join(block)
    tagged = [line for line in lines if line.endswith("log-tag 4711")]
    assert len(tagged) == int(re.findall(r"log-tag 4711: (\d)", text)[0])
    assert len(lines) - len(tagged) == int(re.findall(r"showing a RST: (\d)", text)[0])
    expected = re.findall(r"^       (int0 .*|ext0 .*)$", text, re.M)
    numbers = re.compile(r"-(AR|R) \d+ \d+ \d+")
    unnamed = re.compile(r"^(int0|ext0) ")              # interfaces are not known here
    assert [unnamed.sub("", numbers.sub("-", line)) for line in lines] \
        == [unnamed.sub("", numbers.sub("-", line)) for line in expected]
    hits = lab.ipfstat("-ih").stdout.splitlines() + lab.ipfstat("-aih").stdout.splitlines()
    for line in re.findall(r"^   (?:log rule hits |count rule    ): \['(.*)'\]$", text, re.M):
        assert line in hits


def test_seq_is_0_only_for_a_refusal() -> None:
    lab = rdr_lab(LOG.format(2).replace("\n", " set-tag(log=4711)\n"))
    refuse(lab)
    refuse(lab, RESET, 5001)
    refused, reset = read(lab)
    assert re.fullmatch(r"int0 @-1:-1 L 10\.0\.0\.2,8080 -> 198\.51\.100\.7,5000 PR tcp len 20 40 -AR 0 [1-9]\d* 0 IN "
                        r"log-tag 4711", refused)
    assert re.fullmatch(r"int0 @-1:-1 L 10\.0\.0\.2,8080 -> 198\.51\.100\.7,5001 PR tcp len 20 40 -R [1-9]\d* 0 0 IN "
                        r"log-tag 4711", reset)


def test_groups() -> None:
    """Samples 25 to 29."""
    lab = rdr_lab("pass in quick on lo0 proto udp all\n"
                  "block in log quick on int0 proto tcp from 10.0.0.3 to any flags R/R\n"
                  "pass in on int0 all head web\npass in log quick on int0 proto tcp from 10.0.0.2 to any flags R/R "
                  "group web\n")
    refuse(lab)
    assert [line.partition(" 10.")[0] for line in read(lab)] == ["int0 @web:1 p"]


def test_icmp_unreachable() -> None:
    """Sample 38: what a refusing UDP member sends."""
    expected = re.findall(r"^\S+ \S+ (.* icmp unreach/port .*)$", sample("ipmon-samples.txt"), re.M)[0]
    for rule in ("log in on int0 all\n",
                 "log in on int0 proto icmp from 10.0.0.2 to any icmp-type unreach code port-unr\n"):
        lab = Lab()
        lab.ipnat("-f", "-", stdin="rdr ext0 203.0.113.1/32 port 53 -> 10.0.0.2 port 53 udp\n")
        lab.ipf("-f", "-", stdin=rule)
        session = lab.kernel.nat.packet((UDP, "198.51.100.7", 4000, "203.0.113.1", 53))
        assert session is not None
        lab.kernel.from_member(session, UNREACHABLE, 1)
        assert read(lab) == [expected]


def test_inet6_record() -> None:
    lab = Lab()
    lab.ipnat("-f", "-", stdin="rdr ext0 inet6 2001:db8::1 port 80 -> fd00::2 port 8080 tcp\n")
    lab.ipf("-f", "-", stdin="log in on int0 inet6 proto tcp from fd00::2 port = 8080 to any flags R/R\n")
    session = lab.kernel.nat.packet((TCP, "2001:db8:1::7", 5000, "2001:db8::1", 80))
    assert session is not None
    lab.kernel.from_member(session, REFUSED)
    (line,) = read(lab, Style())
    assert line == "int0 @-1:-1 L fd00::2,8080 -> 2001:db8:1::7,5000 PR tcp len 40 60 -AR IN"
    lab.kernel.from_member(session, REFUSED)
    (line,) = read(lab, Style(old=True))
    assert "len 40 20" in line


def test_flag_letters() -> None:
    """Samples 17 to 24, from the packets that they show."""
    lab = rdr_lab("log in on int0 proto tcp from any to any\n")
    lines = re.findall(r"^\S+ \S+ (int0 .*? PR tcp len 20 40 -([A-Z]*)) 1 2 65535 IN(?: bad)?$",
                       sample("ipmon-samples.txt"), re.M)
    assert len(lines) == 9
    for line, letters in lines:
        (logged,) = lab.kernel.filter.pass_through(Packet("in", 4, TCP, "10.0.0.2", 8080, "198.51.100.7", 6000, letters,
                                                          40))
        refuse(lab)
        (record,) = lab.kernel.log.take()
        record.packet, record.logged = Packet("in", 4, TCP, "10.0.0.2", 8080, "198.51.100.7", 6000, letters, 40), logged
        assert line_of(record, Style()).split(" ", 2)[2] == line + " IN"


def test_names() -> None:
    lab = rdr_lab(LOG.format(2))
    refuse(lab)
    assert "10.0.0.2,http-alt -> 198.51.100.7,5000" in read(lab, Style(names=True))[0]
    refuse(lab)
    assert "10.0.0.2,8080 -> 198.51.100.7,5000" in read(lab, Style(names=True, port_numbers=True))[0]


# -- the device


def test_merging() -> None:
    lab = rdr_lab(LOG.format(2))
    for port in (5000, 5000, 5000, 5001, 5000):
        refuse(lab, port=port)
    assert [line.split(" ")[0] for line in read(lab)] == ["3x", "int0", "int0"]


def take(lab: Lab, *words: str) -> list[str]:
    """What an ipmon prints before it waits."""
    running = ipmon(lab.kernel, words, "/", "UTC")
    lines: list[str] = []
    for kind, text in running:
        if kind == WAIT:
            return lines
        lines.append(text)
    raise AssertionError(lines)


def test_first_line_and_gaps() -> None:
    lab = rdr_lab(LOG.format(2))
    refuse(lab)
    lines = take(lab)
    assert lines[0] == "missed 1 ipf log entries: 0 1\n"
    assert re.fullmatch(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d\.\d{6} int0 .* -AR IN\n", lines[1])
    for port in range(3):
        refuse(lab, port=5001 + port)
    lab.kernel.log.flush()
    refuse(lab, port=5009)
    assert take(lab)[0] == "missed 5 ipf log entries: 0 5\n"


def test_the_buffer_is_full() -> None:
    lab = rdr_lab(LOG.format(2))
    for port in range(1200):
        refuse(lab, port=port + 1)
    assert lab.kernel.log.failures == 1005
    assert len(read(lab)) == 195


def test_flush_option() -> None:
    lab = rdr_lab(LOG.format(2))
    refuse(lab)
    expected = sample("ipmon-process.txt").partition("still running '168")[2].partition("'")[0]
    assert "".join(take(lab, "-F")) == f"168{expected}".replace("\\n", "\n")


def test_local_time() -> None:
    lab = rdr_lab(LOG.format(2))
    lab.kernel.log.wall = lambda: 1795330154.954062
    for zone, expected in (("UTC", "22/11/2026 06:49:14"), ("America/New_York", "22/11/2026 01:49:14"),
                           ("EST5", "22/11/2026 01:49:14")):
        refuse(lab)
        (record,) = lab.kernel.log.take()
        assert line_of(record, Style(zone=zone)).startswith(f"{expected}.95406")


OPTIONS = re.findall(r"^(-\S+.*?|/nonexistent/dir/file)  +exit 1 stdout='' stderr=(.*)$",
                     sample("ipmon-process.txt").partition("== options\n")[2].partition("\n==")[0], re.M)


@pytest.mark.parametrize("words, stderr", OPTIONS)
def test_options(words: str, stderr: str) -> None:
    running = ipmon(Lab().kernel, words.split(), "/")
    kind, text = next(running)
    assert text == ast.literal_eval(stderr)
    with pytest.raises(StopIteration) as done:
        next(running)
    assert done.value.value == 1


def test_version_and_switch() -> None:
    """samples/ipnat-input-misc.txt: IP Filter disabled."""
    section = sample("ipnat-input-misc.txt").partition("== IP Filter disabled")[2].partition("\n== ")[0]
    rows = re.findall(r"^(ipf -\S+) +exit (\d) stdout=(.*?) stderr=''$", section, re.M)
    lab = Lab()
    lab.ipf("-D")
    assert lab.ipf("-f", "-", stdin=LOG.format(2)).status == 0
    for command, status, stdout in rows:
        result = lab.ipf(command.split()[1])
        assert (result.status, result.stdout) == (int(status), ast.literal_eval(stdout)), command
        assert lab.kernel.enabled == (command == "ipf -E" or "Running: yes" in result.stdout)


def test_reload_as_the_service_does_it() -> None:
    """rc.d/ipfilter: flush and load the inactive set, then swap. Our rules are gone."""
    lab = rdr_lab(LOG.format(2))
    assert lab.ipf("-I", "-Fa", "-f", "-", stdin="pass in all\n").status == 0
    assert "log in" in lab.ipfstat("-i").stdout
    assert lab.ipfstat("-iI").stdout == "pass in all\n"
    assert lab.ipf("-s").stdout == "Set 0 now inactive\n"
    assert lab.ipfstat("-i").stdout == "pass in all\n"
    assert lab.ipf("-Fa", "-f", "-", stdin="block in all\n").status == 0
    assert lab.ipfstat("-io").stdout == "block in all\n"
    assert lab.ipfstat("-io").stderr == "# empty list for ipfilter(out)\n"


@pytest.mark.parametrize("rule, listed", [
    ("pass out quick on em0 proto tcp/udp from 10.0.0.0/8 to ! 192.168.0.0/16 keep state keep frags",
     "pass out quick on em0 inet proto tcp/udp from 10.0.0.0/8 to !192.168.0.0/16 keep state keep frags"),
    ("pass in quick proto tcp from any to any port 1024 >< 2000 flags S/SA keep state (limit 100, strict)",
     "pass in quick proto tcp from any to any port 1024 >< 2000 flags S/SA keep state (limit 100,strict)"),
    ("block in log level auth.info on em0 all", "block in log level auth.info on em0 all"),
    ("count out on em0 from any to 10.0.0.1", "count out on em0 inet from any to 10.0.0.1/32"),
])
def test_other_peoples_rules(rule: str, listed: str) -> None:
    """From reading the grammar, not from samples: stored, listed and removed by what is listed."""
    lab = Lab()
    result = lab.ipf("-f", "-", stdin=rule + "\n")
    assert (result.status, result.stderr) == (0, "")
    shown = lab.ipfstat("-ioR").stdout + "".join(line.partition(" ")[2] + "\n"
                                                 for line in lab.ipfstat("-aioR").stdout.splitlines())
    assert shown == listed + "\n"
    assert lab.ipf("-r", "-f", "-", stdin=shown).status == 0
    assert lab.ipfstat("-ioa").stdout == ""


@pytest.mark.parametrize("rule", [
    "block in quick from any to any with short", "skip 1 in all", "pass in on em0 to em1:10.0.0.9 all", "auth in all",
    "pass in proto tcp from any to any port = { 80, 443 }", "pass in from pool/1 to any", "pass in tos 8 all"])
def test_what_nobody_needs_here_is_refused(rule: str) -> None:
    """Not half understood: a rule that is not followed must not be listed as if it were."""
    lab = Lab()
    assert lab.ipf("-f", "-", stdin=f"{rule}\n").status == 1
    assert lab.ipfstat("-io").stdout == ""
