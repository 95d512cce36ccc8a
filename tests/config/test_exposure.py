"""Files that decide over a gateway and that others than root may change: real modes, owners and links."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from l4ipd.config.exposure import exposures
from l4ipd.config.parse import parse
from l4ipd.runtime.ownership import loose
from support.gateway import wait
from support.operated_gateway import OperatedGateway

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
NOBODY = 65534


def everybody(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def group(path: Path) -> None:
    os.chown(path, 0, 1)
    path.chmod(path.stat().st_mode | 0o020)


def given(path: Path) -> None:
    os.chown(path, NOBODY, 0, follow_symlinks=False)


def sticky(path: Path) -> None:
    path.chmod(0o1777)


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(("change", "what", "words"), [
    (nothing, "a/b/file", ""), (everybody, "a/b/file", "others may write {}"),
    (group, "a/b/file", "others may write {}"), (given, "a/b/file", "{} belongs to nobody"),
    (everybody, "a/b", "others may write in {}"), (group, "a", "others may write in {}"),
    (given, "a", "{} belongs to nobody"), (sticky, "a/b", ""), (everybody, "a/other", ""),
    (everybody, "links", "others may write in {}"), (given, "links/link", "{} belongs to nobody"),
    (given, "links/away", "{} belongs to nobody"), (everybody, "a/b/..", "others may write in {}")])
def test_who_may_change_a_file(tmp_path: Path, change: Callable[[Path], None], what: str, words: str) -> None:
    """By way of two links: of a directory, and of the file."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "a/b/file").write_text("")
    (tmp_path / "a/other").write_text("")
    (tmp_path / "links/away").symlink_to(tmp_path / "a")
    (tmp_path / "links/link").symlink_to("away/b/../b/file")
    (tmp_path / "loop").symlink_to("loop")
    change(tmp_path / what)
    expected = words.format(os.path.normpath(tmp_path / what))
    assert loose(str(tmp_path / "links/link")) == expected
    if not what.startswith("links"):
        assert loose(str(tmp_path / "a/b/file")) == expected
    for absent in ("nowhere", "a/b/nowhere", "a/b/file/nowhere", "loop"):
        assert loose(str(tmp_path / absent)) == ""


CONFIG = """
notify: [{0}/notify, {0}/argument, {0}, /nowhere]
ipfilter: {{interface: em0, ipnat: {0}/ipnat, ipf: {0}/ipf}}
clusters:
  c:
    address: 203.0.113.1
    services:
      s: {{port: 80, check: [{{type: exec, command: ["{0}/{{member}}-check", "{0}/script"]}},
                           {{type: exec, command: sh}}]}}
      t: {{port: 443, check: {{type: https, verify: {0}/ca.pem, host: x}}}}
    members: {{m: 10.0.0.1, n: 10.0.0.2}}
"""


def test_everything_that_decides_is_looked_at(tmp_path: Path) -> None:
    names = ["l4ip.conf", "ipnat", "notify", "argument", "m-check", "script", "n-check", "ca.pem"]
    for name in [*names, "ipf", "other"]:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o777)
    config = parse(CONFIG.format(tmp_path), "")
    whose = ["", "ipfilter.ipnat: ", "notify: ", "notify: ", "c/s: command: ", "c/s: command: ", "c/s: command: ",
             "c/t: verify: "]
    assert exposures(config, str(tmp_path / "l4ip.conf")) == [
        f"{where}{tmp_path}/{name}: may be changed by others than root: others may write {tmp_path}/{name}"
        for where, name in zip(whose, names, strict=True)]
    resets = parse(CONFIG.format(tmp_path) + "resets: {interface: em1}\n", "")
    assert len(exposures(resets, str(tmp_path / "l4ip.conf"))) == len(names) + 1, "ipf, then, too"
    log_file = parse(CONFIG.format(tmp_path) + f"resets: {{interface: em1, source: {tmp_path}/other}}\n", "")
    assert f"resets.source: {tmp_path}/other: may be changed by others than root: others may write {tmp_path}/other" \
        in exposures(log_file, str(tmp_path / "l4ip.conf"))


SECRETS = """
ipfilter: {{interface: em0, ipf: {0}/ipf, ipfstat: {0}/ipfstat, ipmon: {0}/ipmon}}
resets: {{interface: em1}}
notify: [{0}/notify, here]
clusters:
  c:
    address: 203.0.113.1
    services:
      s: {{port: 80, check: {{type: http, headers: {{X: {{file: {0}/token}}}}}}}}
      t: {{port: 443, check: {{type: https, verify: no, cert: {0}/both.pem}}}}
      u: {{port: 444, check: {{type: https, verify: no, cert: {0}/cert.pem, key: {0}/key.pem}}}}
    members: {{m: 10.0.0.1}}
  d:
    address: 203.0.113.2
    services: {{s: {{port: 80, check: {{type: exec, command: {0}/check}}}}}}
    members: {{m: 10.0.0.1}}
"""


def test_what_is_secret_may_be_read_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate with its key elsewhere is none. All that others may write is told of with where it is named."""
    files = {"ipf": "ipfilter.ipf", "ipfstat": "ipfilter.ipfstat", "ipmon": "ipfilter.ipmon", "notify": "notify",
             "token": "c/s: headers", "both.pem": "c/t: cert", "cert.pem": "c/u: cert", "key.pem": "c/u: key",
             "check": "d/s: command"}
    for name in (*files, "here"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)                     # where it runs later, nobody knows: "here" is no file
    config = parse(SECRETS.format(tmp_path), "")
    secret = [f"{files[name]}: {tmp_path}/{name}: may be read by others than root: everybody may"
              for name in ("key.pem", "both.pem", "token")]
    assert exposures(config, "/nowhere") == secret
    for name in (*files, "here"):
        (tmp_path / name).chmod(0o702)
    assert exposures(config, "/nowhere") == [
        f"{where}: {tmp_path}/{name}: may be changed by others than root: others may write {tmp_path}/{name}"
        for name, where in files.items()]
    for name in files:
        (tmp_path / name).chmod(0o700)
    assert exposures(config, "/nowhere") == []


def test_what_runs_us_is_not_told_of() -> None:
    config = parse(f"ipfilter: {{interface: em0, ipnat: {sys.executable}}}\nclusters: {{c: {{address: 203.0.113.1, "
                   "services: {s: {port: 80}}, members: {m: 10.0.0.1}}}", "")
    assert exposures(config, "/nowhere") == []


def test_it_is_said_by_n_at_start_and_once_at_a_reload(node: OperatedGateway) -> None:
    words = f"{node.config}: may be changed by others than root: others may write {node.config}"
    assert "may be changed" not in node.run("-n").stderr
    node.config.chmod(0o666)
    assert f"warning: {words}\n" in node.run("-n").stderr
    node.start()
    wait("told", lambda: words in node.text())
    assert node.ctl("reload")[2] == "", "it was told"
    script = node.directory / "notify"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o777)
    node.config.write_text(node.config.read_text() + f"notify: {script}\n")
    told = f"notify: {script}: may be changed by others than root: others may write {script}"
    assert node.ctl("reload")[2] == f"l4ipctl: warning: {told}\n"
    assert told in node.text()
    assert node.ctl("reload")[2] == ""
    node.config.write_text(node.config.read_text().replace("check: tcp", "check: {type: http, path: '/${A}'}"))
    assert "l4ipctl: warning: www/http: path: ${A} is taken as it stands" in node.ctl("reload")[2]
