"""Included files: in their order, with defaults of their own, every flaw with its file and line; read as one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from l4ipd.config import documents
from l4ipd.config.exposure import exposures
from l4ipd.config.files import Refused, load
from l4ipd.model import Config

CLUSTER = "{{address: 192.0.2.{0}, services: {{http: {{port: 80}}}}, members: {{m: 10.0.0.{0}}}}}"
FIRST = "ipfilter: {interface: em0}\n"


def write(directory: Path, **files: str) -> str:
    """Files by their names, in which __ stands for a slash and _ for a dot; the path of the first configuration."""
    for name, text in files.items():
        path = directory / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return str(directory / "l4ip.conf")


def cluster(name: str, number: int) -> str:
    return f"clusters:\n  {name}: {CLUSTER.format(number)}\n"


def refused(path: str) -> list[str]:
    with pytest.raises(Refused) as caught:
        load(path)
    return [line.removeprefix(os.path.dirname(path) + "/") for line in str(caught.value).splitlines()]


def names(config: Config) -> list[str]:
    return [each.name for each in config.clusters]


def test_sorted(tmp_path: Path) -> None:
    path = write(tmp_path, l4ip_conf=FIRST + "include: [conf.d/*.conf, more.conf]\n" + cluster("z", 9),
                 conf_d__20_conf=cluster("b", 2), conf_d__10_conf=cluster("c", 1), conf_d__30_conf_bak=cluster("x", 7),
                 conf_d___40_conf=cluster("y", 8), more_conf=cluster("a", 3))
    config = load(path)
    assert names(config) == ["z", "c", "b", "a"]
    assert [os.path.basename(file) for file in config.files] == ["l4ip.conf", "10.conf", "20.conf", "more.conf"]


def test_names_that_are_empty(tmp_path: Path) -> None:
    """A source without a file's name would be one of the DNS."""
    path = write(tmp_path, l4ip_conf=FIRST + "include: ['', ' ', one.conf]\n", one_conf=cluster("b", 2).replace(
        "members: {", "members_from: [{file: ''}, {file: ' '}], members: {"))
    words = "has no value: the name of a file is wanted"
    assert refused(path) == [f"l4ip.conf:2: include[1]: {words}", f"l4ip.conf:2: include[2]: {words}",
                             *(f"one.conf:2: clusters.b.members_from[{number}].file: {words}" for number in (1, 2))]


def test_files_of_ours_that_would_overwrite_each_other(tmp_path: Path) -> None:
    """Whatever they are called. What stands beside them is another file."""
    (tmp_path / "link").symlink_to(tmp_path)
    top = f"pidfile: {tmp_path}/a\nstate: {tmp_path}/link/%s\ncontrol: {tmp_path}/%s\n"
    files = {"one_conf": cluster("b", 2)}
    path = write(tmp_path, l4ip_conf=top % ("a", "a") + FIRST + "include: one.conf\n", **files)
    assert refused(path) == [f"l4ip.conf:3: control: {tmp_path}/a is pidfile, too: name another file",
                             f"l4ip.conf:2: state: {tmp_path}/link/a is pidfile, too: name another file"]
    path = write(tmp_path, l4ip_conf=top % ("one.conf", "l4ip.conf") + FIRST + "include: one.conf\n", **files)
    assert refused(path) == [
        f"l4ip.conf:3: control: {tmp_path}/l4ip.conf is the configuration, too: name another file",
        f"l4ip.conf:2: state: {tmp_path}/link/one.conf is the configuration, too: name another file"]
    path = write(tmp_path, l4ip_conf=top % ("b", "c") + FIRST + "include: one.conf\n", **files)
    assert names(load(path)) == ["b"]


def test_only_included_clusters(tmp_path: Path) -> None:
    path = write(tmp_path, l4ip_conf=FIRST + "include: one.conf\n", one_conf="include: d/*\n", d__two=cluster("b", 2))
    assert names(load(path)) == ["b"], "relative to the file that includes"


def test_no_cluster_at_all(tmp_path: Path) -> None:
    path = write(tmp_path, l4ip_conf=FIRST + "include: d/*.conf\n", d__no="")
    assert refused(path) == ["l4ip.conf:1: clusters: is missing: at least one cluster, with its address, services and "
                             "members"]


def test_defaults_are_for_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, l4ip_conf=FIRST + "defaults: {interval: 7s, fall: 5}\ninclude: [b.conf, c.conf]\n"
                 + cluster("a", 1), b_conf="defaults: {interval: 2s}\ninclude: d.conf\n" + cluster("b", 2),
                 c_conf=cluster("c", 3), d_conf=cluster("d", 4))
    paces = {each.cluster: (each.checks[0].interval, each.checks[0].fall) for each in load(path).endpoints()}
    assert paces == {"a": (7, 5), "b": (2, 5), "c": (7, 5), "d": (2, 5)}


def test_every_flaw_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, l4ip_conf=FIRST + "include:\n  - c.d/*.conf\n  - absent.conf\n  - no.d/*.conf\n  - c.d/1.conf\n"
        + cluster("a", 1),
        c_d__1_conf="pidfile: /x\nfoo: 1\n" + cluster("a", 1), c_d__2_conf="clusters: {b: {address: x.example}}\n",
        c_d__3_conf="", c_d__4_conf="- a\n", c_d__5_conf="a: [\n", c_d__6_conf="include: ../l4ip.conf\n",
        c_d__7_conf="include: [7.conf, 1.conf]\n", c_d__8_conf="include: {a: b}\n", c_d__9_conf="include:\n")
    home = str(tmp_path)
    found = [line.replace(home + "/", "") for line in refused(path)]
    assert [line for line in found if line.startswith("l4ip.conf:")] == [
        "l4ip.conf:4: include[2]: absent.conf: cannot be read: no such file or directory",
        "l4ip.conf:5: include[3]: no.d: cannot be read: no such file or directory",
        "l4ip.conf:6: include[4]: c.d/1.conf: is included already (line 3)"]
    assert [line for line in found if line.startswith("c.d/1.conf:")] == [
        "c.d/1.conf:1: pidfile: may stand in the first file only: one that is included has defaults and clusters",
        "c.d/1.conf:2: foo: unknown key; known here: include, defaults, clusters",
        "c.d/1.conf:4: clusters.a: there is such a cluster already (l4ip.conf:8)",
        "c.d/1.conf:4: clusters.a.services.http.port: 192.0.2.1 port 80 tcp already belongs to a/http (l4ip.conf:8)"]
    rest = [line for line in found if not line.startswith(("l4ip.conf:", "c.d/1."))]
    assert [line.partition(": ")[0] for line in rest] == [
        "c.d/2.conf:1", "c.d/2.conf:1", "c.d/2.conf:1", "c.d/3.conf:1", "c.d/4.conf:1", "c.d/5.conf:2",
        "c.d/6.conf:1", "c.d/7.conf:1", "c.d/7.conf:1", "c.d/8.conf:1", "c.d/9.conf:1"]
    assert rest[3:5] == ["c.d/3.conf:1: the file is empty: clusters are needed",
                         "c.d/4.conf:1: the file is not a mapping: it begins with keys such as clusters:"]
    assert rest[6] == "c.d/6.conf:1: include: c.d/../l4ip.conf: includes itself"
    assert rest[7] == "c.d/7.conf:1: include[1]: c.d/7.conf: includes itself"
    assert rest[8] == "c.d/7.conf:1: include[2]: c.d/1.conf: is included already (l4ip.conf:3)"


def test_the_same_address_in_two_files(tmp_path: Path) -> None:
    path = write(tmp_path, l4ip_conf=FIRST + "include: ?.conf\n", a_conf=cluster("a", 1), b_conf=cluster("b", 1))
    found = refused(path)
    assert found == [f"b.conf:2: clusters.b.services.http.port: 192.0.2.1 port 80 tcp already belongs to a/http "
                     f"({tmp_path}/a.conf:2)"]


def test_what_the_machine_lacks_is_told_with_its_file(tmp_path: Path) -> None:
    text = ("clusters:\n  b:\n    address: 192.0.2.2\n    members: {m: 10.0.0.2}\n    services:\n      x:\n"
            "        port: 1\n        check: {type: exec, command: [/no/such/program]}\n")
    found = refused(write(tmp_path, l4ip_conf=FIRST + "include: b.conf\n" + cluster("a", 1), b_conf=text))
    assert [line.partition(": ")[0] for line in found] == ["b.conf:8"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root warns of such files")
def test_a_file_that_others_may_write(tmp_path: Path) -> None:
    path = write(tmp_path, l4ip_conf=FIRST + "include: b.conf\n", b_conf=cluster("b", 2))
    (tmp_path / "b.conf").chmod(0o666)
    assert [line.partition(": may")[0] for line in exposures(load(path), path)
            if "b.conf" in line] == [f"include: {tmp_path}/b.conf"]


def test_not_what_would_keep_its_reader_waiting(tmp_path: Path) -> None:
    path = write(tmp_path, l4ip_conf=FIRST + "include: [pipe, sub]\n" + cluster("a", 1), sub__x="")
    os.mkfifo(tmp_path / "pipe")
    assert [line.replace(str(tmp_path), "") for line in refused(path)] == [
        "l4ip.conf:2: include[1]: /pipe: cannot be read: is no regular file",
        "l4ip.conf:2: include[2]: /sub: cannot be read: is a directory"]


def test_not_larger_than_the_limit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SIZE_LIMIT", 500)
    path = write(tmp_path, l4ip_conf=FIRST + "include: ?.conf\n", a_conf=cluster("a", 1) + "#" * 200,
                 b_conf=cluster("b", 2) + "#" * 200)
    assert [line.rpartition(": ")[2] for line in refused(path)] == ["all files together are larger than 0 MB"]


def test_links_and_other_names_of_one_file(tmp_path: Path) -> None:
    path = write(tmp_path, l4ip_conf=FIRST + "include: ?.conf\n", a_conf=cluster("a", 1))
    (tmp_path / "b.conf").symlink_to("a.conf")
    (tmp_path / "c.conf").symlink_to("c.conf")
    found = [line.replace(str(tmp_path) + "/", "") for line in refused(path)]
    assert found[0] == "l4ip.conf:2: include: b.conf: is included already (line 2)"
    assert found[1].startswith("l4ip.conf:2: include: c.conf: cannot be read: ")
