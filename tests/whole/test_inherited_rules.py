"""What an earlier run has left behind, and a first listing that begins in the middle of the table (FACTS.md 3-3)."""

from __future__ import annotations

from dataclasses import replace

from l4ipd.inherited_rules import InheritedRules
from support.balancer import balancer, cluster, web

LEFT = "rdr em9 203.0.113.99/32 port 80 -> 10.9.9.9 port 80 tcp round-robin tag old"


def test_one_listing_without_it_does_not_make_a_rule_somebody_else_s() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        steering = daemon.steering
        steering.inherited = InheritedRules()
        steering.inherited.remember([LEFT])
        steering._listed()
        assert LEFT in steering.unmarked(), "the next run has to know of it"
        assert steering._known(LEFT) == LEFT, "seen now, it is ours, and may go"
        steering._listed()
        assert LEFT not in steering.unmarked() and steering._known(LEFT) is None, "it is gone"


def test_tags_and_lines_are_known_until_two_listings_agree() -> None:
    it = InheritedRules()
    it.listed({})
    assert (it.lines, it.clusters, it.tags) == (frozenset(), set(), set()), "there was nothing"
    it.remember(["one", "two"])
    it.retag("old")
    for have in ({"one": ""}, {}, {"two": ""}):
        it.listed(have)
        assert it.lines == {"one", "two"} and it.tags == {"old"}, "each of them misses others"
    it.retag("older")
    it.listed({"two": ""})
    assert it.lines == {"one", "two"} and it.tags == {"old", "older"}, "what bears that may not have been there yet"
    it.listed({"two": ""})
    assert not it.lines and not it.tags
    it.adopted(["www", "mail"])
    assert it.clusters == {"www", "mail"}


def test_clusters_that_are_gone_before_they_were_told_of_are_forgotten() -> None:
    with balancer(cluster("www", *web(1)), cluster("ftp", *web(1))) as daemon:
        daemon.readiness.before = {"www": True, "ftp": True}
        config = daemon.config
        daemon.readiness.take_over(replace(config, clusters=config.clusters[:1]))
        assert daemon.readiness.before == {"www": True}
