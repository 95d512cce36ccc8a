"""The daemon against a naive model, in random orders of events; see ``simulation``, ``naive`` and ``chance``."""

from __future__ import annotations

import collections
import gc
import os
import re
import shutil
import signal
from pathlib import Path

from l4ipd.config.files import load
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.model import Endpoint
from support import naive
from support.chance import repeat
from support.simulation import GOOD, LEAVES, REFUSES, SICK, SILENT, World, simulated

SECONDS = 20.0
COUNT = re.compile(r"; (\d+) of (\d+) up$")


class Told:
    """Who hears every event and nothing else: what it believes, and whether it was told the same twice."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}            # endpoint -> up, down, draining, held; absent: it cannot know
        self.idle: set[str] = set()                 # endpoints of weight 0
        self.disabled: set[str] = set()
        self.out: set[str] = set()                  # services of which it knows that nobody is up
        self.maybe: set[str] = set()                # services that were so before a restart that may have forgotten it
        self.transitions: dict[str, float] = {}     # when it last heard of an endpoint or a service

    def hear(self, event: Event, now: float) -> None:
        name = event.name
        self.transitions[name] = now
        if event.kind in ("up", "down", "draining", "held"):
            assert self.states.get(name) != event.kind, f"told twice: {event.text}"
            self.states[name] = event.kind
        elif event.kind == "disabled":
            self.disabled.add(name)
            if self.states.get(name) == "held":     # which that has ended
                del self.states[name]
        elif event.kind == "enabled":
            self.disabled.discard(name)
            self.states.pop(name, None)             # whatever its first probe says then is news
            if name not in self.idle:               # that nobody is up after all would be news, too
                self.out.discard(name.rpartition("/")[0])
        elif event.kind == "all-down":
            assert name not in self.out, f"told twice: {event.text}"
            assert not self.eligible(name), f"not true: {event.text}"
            self.out.add(name)
        self.out -= {group for group in self.out if self.eligible(group)}
        self.maybe -= {group for group in self.maybe if self.eligible(group)}

    def eligible(self, group: str) -> list[str]:
        return [name for name, state in self.states.items() if state == "up" and name.rpartition("/")[0] == group
                and name not in self.disabled | self.idle]

    def reloaded(self, daemon: Daemon, unchanged: set[str]) -> None:
        """Of what has changed it knows nothing; the rest is as it was."""
        self.states = {name: state for name, state in self.states.items() if name in unchanged}
        self.disabled &= set(daemon.fleet.monitors)
        idle, self.idle = self.idle, {name for name, monitor in daemon.fleet.monitors.items()
                                      if not monitor.endpoint.weight}
        woken = {name.rpartition("/")[0] for name in idle - self.idle} & self.out   # by one that may be up all the time
        self.out -= woken
        self.maybe |= woken
        self.out = {group for group in self.out if group in daemon.fleet.groups and not self.eligible(group)}

    def restarted(self, settings: naive.Settings, kernel: set[naive.Rule], sure: bool, now: float) -> None:
        """A new daemon knows what is in the kernel, and of those that were down what was saved, a second later."""
        self.disabled &= set(naive.names(settings))
        self.idle = {name for name in naive.names(settings) if not naive.weighs(settings, name)}
        before, self.states = self.states, {}
        for name in naive.names(settings):
            there = bool(naive.rules(settings, name) & kernel)
            saved = name in before and self.transitions.get(name, 0.0) < now - 1.1
            if sure and saved and there == (before[name] == "up"):
                self.states[name] = before[name]
        before_out = (self.out | self.maybe) & set(naive.groups(settings))
        self.out = {group for group in before_out - self.maybe if all(
            name in self.states for name in naive.names(settings) if name.rpartition("/")[0] == group)}
        self.maybe = before_out - self.out


#: what has a limit of its own and may be fuller than at first, and the parts of the configuration of the start
LIMITED = re.compile(
    r"Happening|Event|History\..*|.*\._?fresh|NatTable\._seen|Method|Check|Verdict|Timing(\..*)?|Schedule\.timings|Control"
    r"|Saved\..*|Reaction\.(_hits|ignored)|ResetRules\._(counts|older|left)|.*\.slot|Cluster|Member|Service|Resets|Ipfilter"
    r"|Past|Transitions\.(past|empty_before)|Flap|Flapping(\..*)?|Hold|HoldDown|Holds\._(groups|touched)"
    r"|Refusals|Doubt.*|Config\.given|Trouble(\..*)?|Unprobed\._troubles|FilterTable\.tags"
    r"|Faults\._said|Budget\._spent|Resync\._costs|Iterator\._cuts|Checker\._durations|Listed|Rdr|Conflicts\._told|Times\._times"
    r"|Steering\._ageless|InheritedRules\..*|Ready")


def sizes(daemon: Daemon) -> dict[str, int]:
    """What the daemon holds: how many objects of each class, and how much is in their containers."""
    gc.unfreeze()
    gc.collect()
    found: collections.Counter[str] = collections.Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if not str(kind.__module__).startswith("l4ipd.") or ".sandbox" in kind.__module__:
            continue
        found[kind.__name__] += 1
        names = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
        for name in {*names, *getattr(thing, "__dict__", ())}:
            value = getattr(thing, name, None)
            if isinstance(value, (dict, list, set, frozenset, collections.deque)):
                found[f"{kind.__name__}.{name}"] += len(value)
    return {name: count for name, count in found.items() if not LIMITED.fullmatch(name)}


class Run(World):
    """One run: an hour of trouble in a minute, and then peace."""

    QUIET, NOISE, LULL, PATIENCE = 15.0, 60.0, 60.0, 5.5

    def __init__(self, seed: int, directory: Path) -> None:
        super().__init__(seed, directory, ("4.1", "5.1.2", "6.0.0")[seed % 3])
        self.told = Told()
        self.endpoints: dict[str, Endpoint] = {}
        self.path = directory / "l4ip.conf"
        self.settings = self.first = naive.draw(self.random)
        self.path.write_text(naive.text(self.settings, directory))
        self.events: list[tuple[float, Event]] = []
        self.cut: set[str] = set()                  # endpoints that were disabled at once
        self.past: dict[tuple[str, int], list[tuple[float, str]]] = {}  # how members have behaved, and until when
        self.edited = 0.0                           # when the configuration was
        self.story: list[str] = []

    def go(self) -> None:
        for number, source in enumerate(("ipmon", "counters", "")):     # so that all that is kept for ever is there
            self.after(2.0 + number, lambda source=source: self.sense(source))          # type: ignore[misc]
        self.after(self.QUIET, self.begin)
        self.live(self.path)

    def sense(self, source: str) -> None:
        self.settings = self.first if not source else {
            **self.first, "resets": {"interface": "em1", "source": source, "action": "refused"}}
        self.reload()

    def begin(self) -> None:
        """All is well, and nothing happens yet."""
        assert self.daemon is not None
        self.forget()
        self.before = sizes(self.daemon)
        self.faults, self.slowest, self.stalls = self.random.choice(
            ((0.0, 0.05, 0.0), (0.0, 2.0, 0.0), (0.2, 0.3, 0.0), (0.5, 2.0, 0.002)))
        self.noisy_until = self.now + self.NOISE
        self.after(1.0, self.act)
        self.at(self.noisy_until, self.lull)
        self.after(1000.0, self.never)

    # -- while it is noisy

    def act(self) -> None:
        if self.now > self.noisy_until:
            return
        self.after(self.random.expovariate(0.7), self.act)
        action = self.random.choices([self.turn_member, self.edit, self.disable, self.enable, self.clients, self.flush,
                                      self.look, self.die, self.term], [8, 6, 3, 3, 5, 1, 1, 1, 1])[0]
        self.say(action.__name__)
        action()

    def never(self) -> None:
        raise AssertionError(f"no end: {[child.words for child in self.children]}")

    def say(self, what: str) -> None:
        self.story.append(f"{self.now - 1000:8.3f} {what}")

    def turn_member(self) -> None:
        place = self.random.choice(sorted(set(naive.names(self.settings).values())))
        self.past.setdefault(place, []).append((self.now, self.members.get(place, GOOD)))
        self.members[place] = self.random.choice((GOOD, GOOD, REFUSES, SILENT, SICK, LEAVES))
        self.say(f"    {place} {self.members[place]}")

    def edit(self) -> None:
        self.settings = naive.mutate(self.settings, self.random)
        self.reload()

    def reload(self) -> None:
        self.path.write_text(naive.text(self.settings, self.directory))
        self.edited = self.now
        self.signal(signal.SIGHUP)

    def disable(self) -> None:
        assert self.daemon is not None
        name = self.random.choice(sorted(self.daemon.fleet.monitors))
        if name not in self.told.disabled:
            self.say(f"    {name}")
            now = self.random.random() < 0.5
            (self.cut.add if now else self.cut.discard)(name)
            self.daemon.fleet.disable([self.daemon.fleet.monitors[name]], now)

    def enable(self) -> None:
        assert self.daemon is not None
        chosen = [monitor for monitor in self.daemon.fleet.monitors.values() if monitor.disabled]
        if chosen:
            self.daemon.fleet.enable(chosen[:1])

    def clients(self) -> None:
        each = self.settings["clusters"][self.random.choice(sorted(self.settings["clusters"]))]
        for it in each["services"].values():
            for _ in range(self.random.choice((1, 5))):
                self.client(each["address"], it["port"] + self.random.randrange(it["ports"]))
            if self.random.random() < 0.1:
                self.banned(each["address"], it["port"] + self.random.randrange(it["ports"]))

    def look(self) -> None:
        self.signal(signal.SIGUSR1)

    def die(self) -> None:
        if self.settings["tag"] is not None:        # without tags nobody can know a rule that was loaded just now
            self.kill()

    def term(self) -> None:
        self.signal(signal.SIGTERM)

    def asked(self, tool: str, words: list[str], text: str) -> None:
        """Whose sessions may be ended now, after what its member was of late, and by settings of before."""
        if tool != "ipnat" or "-p" not in words or "-n" in words or self.now < self.edited + 8.0:
            return
        settings = self.settings
        owners = {rule: name for name in naive.names(settings) for rule in naive.rules(settings, name)}
        for line in text.splitlines():
            rule = naive.read(line)
            name = owners.get(rule) if rule is not None else None
            assert name is not None, f"sessions of nobody are ended: {line}"
            place = naive.names(settings)[name]
            recent = [behaviour for until, behaviour in self.past.get(place, ()) if until > self.now - 15.0]
            behaviours = {*recent, self.members.get(place, GOOD)}
            if name not in self.cut and not any(naive.may_cut(settings, name, each) for each in behaviours):
                self.failure = AssertionError(f"sessions of a member that is {behaviours} are ended: {line}")
                self.over()

    # -- what is told

    def started(self) -> None:
        assert self.daemon is not None
        self.say("started")
        self.daemon.events.listen(self.heard)
        there = {rule for line in self.rules() if line not in self.foreign and (rule := naive.read(line))}
        self.told.restarted(self.settings, there, sure=not self.faults and self.slowest < 1,
                            now=self.now)
        self.endpoints = self.now_there()

    def stopped(self) -> None:
        """What a daemon leaves behind that was told to stop, while the tools are good."""
        assert self.daemon is not None
        daemon = self.daemon
        if self.faults or self.slowest > 1 or self.path.read_text() != naive.text(self.settings, self.directory):
            return
        if set(daemon.fleet.monitors) != set(naive.names(self.settings)) or daemon.config != load(str(self.path)):
            return                                  # a change that it had not read yet
        if self.settings["on_stop"] == "remove":
            assert set(self.rules()) == self.foreign
            return
        there = {naive.read(line) for line in self.rules()}
        for name, monitor in daemon.fleet.monitors.items():
            if monitor.seen in ("down", "draining", "held") and not naive.keeps(self.settings, monitor.endpoint.group):
                assert not naive.rules(self.settings, name) & there, f"{name} is down, and nobody is left to say so"

    def now_there(self) -> dict[str, Endpoint]:
        assert self.daemon is not None
        return {name: monitor.endpoint for name, monitor in self.daemon.fleet.monitors.items()}

    def heard(self, event: Event) -> None:
        daemon = self.daemon
        assert daemon is not None
        if self.dead:                               # what is cleared away after a kill is no news
            return
        self.events.append((self.now, event))
        self.say(f"    {event.kind}: {event.text}")
        endpoints = self.now_there()
        if event.kind == "reloaded":
            self.told.reloaded(daemon, {name for name in endpoints if endpoints[name] == self.endpoints.get(name)})
        self.endpoints = endpoints
        try:
            self.told.hear(event, self.now)
            self.count(event)
        except AssertionError as error:
            self.failure = error
            self.over()

    def count(self, event: Event) -> None:
        """What it says of how many are up."""
        found = COUNT.search(event.text)
        if found and event.kind in ("up", "down", "draining", "held", "disabled", "enabled"):
            assert self.daemon is not None
            group = self.daemon.fleet.groups[event.name.rpartition("/")[0]]
            regular = [monitor.eligible for monitor in group
                       if monitor.endpoint.weight and not monitor.endpoint.fallback]
            spare = sum(monitor.eligible for monitor in group if monitor.endpoint.fallback) if not any(regular) else 0
            assert (int(found[1]), int(found[2])) == (sum(regular) + spare, len(regular) + spare), event

    # -- and then

    def lull(self) -> None:
        """Members stay as they are. The tools are still bad."""
        self.say("lull")
        self.stalls = 0.0
        self.at(self.now + self.LULL, self.peace)

    def peace(self) -> None:
        """The tools are good again."""
        self.say("peace")
        self.faults, self.slowest = 0.0, 0.05
        self.after(self.PATIENCE, self.compare)

    def compare(self) -> None:
        assert self.daemon is not None
        daemon, settings = self.daemon, self.settings
        self.no_errors()
        assert set(daemon.fleet.monitors) == set(naive.names(settings))
        assert set(daemon.fleet.disabled) == self.told.disabled
        states = {name: naive.state(settings, name, self.members.get(place, GOOD))
                  for name, place in naive.names(settings).items()}
        states |= self.held(states)
        assert {name: monitor.seen for name, monitor in daemon.fleet.monitors.items()} == states
        self.compare_rules({name for name, state in states.items() if state == "up"} - self.told.disabled)
        self.compare_told(states)
        quiet = len(self.events)
        self.after(30.0, lambda: self.settled(quiet))

    def held(self, states: dict[str, str]) -> dict[str, str]:
        """Who is held down, which its own state does not tell; but nobody who is the last of its kind."""
        assert self.daemon is not None
        found = {name: "held" for name, monitor in self.daemon.fleet.monitors.items() if monitor.held}
        assert self.settings["flap"] is not False or not found
        for name in found:
            assert name not in self.told.disabled
            serving = {other for other, state in states.items() if state == "up"} - found.keys() - self.told.disabled
            serves = states[name] == "up" and naive.weighs(self.settings, name)
            assert not serves or serving & set(naive.kin(self.settings, name)), f"{name} is the last one"
        return found

    def compare_rules(self, eligible: set[str]) -> None:
        listed = self.rules()
        there = collections.Counter(naive.read(line) for line in listed if line not in self.foreign)
        assert None not in there and set(there.values()) <= {1}, listed
        assert self.foreign <= set(listed)
        found = set(there)
        for group in naive.groups(self.settings):
            wanted = naive.serving(self.settings, group, eligible)
            if not wanted and naive.keeps(self.settings, group):
                names = [name for name in naive.names(self.settings) if name.rpartition("/")[0] == group]
                wanted = [name for name in names if name not in self.told.disabled
                          and naive.rules(self.settings, name) <= found]
            rules = {rule for name in wanted for rule in naive.rules(self.settings, name)}
            assert rules <= found, f"{group}: missing {rules - found}"
            found -= rules
        assert not found, f"nobody's: {found}"

    def compare_told(self, states: dict[str, str]) -> None:
        """Whoever listened knows it all."""
        assert self.daemon is not None
        told = self.told
        wrong = {name: state for name, state in told.states.items() if state != states.get(name)}
        assert not wrong and told.states.keys() <= naive.names(self.settings).keys(), wrong
        for group, members in self.daemon.fleet.groups.items():
            known = all(monitor.endpoint.name in told.states for monitor in members)
            if known and not told.eligible(group) and not all(monitor.withheld for monitor in members):
                assert group in told.out | told.maybe, f"never told that {group} is down"

    def settled(self, quiet: int) -> None:
        assert self.daemon is not None
        late = ("sensing-back",)                    # ipmon is started ever less often
        assert [event for _, event in self.events[quiet:]
                if " held -> " not in event.text and event.kind not in late] == []
        working = [child.words for child in self.children if child._tool()[0] not in ("ipmon", "check")]
        assert all({"-l", "-iR", "-aihR", "-s", "-T"} & set(words) for words in working), working
        self.members.clear()
        held = [monitor for monitor in self.daemon.fleet.monitors.values() if monitor.held]
        self.daemon.fleet.disable(held, now=False)
        self.daemon.fleet.enable([monitor for monitor in self.daemon.fleet.monitors.values() if monitor.disabled])
        self.settings = self.first
        self.reload()
        self.after(self.QUIET + 60.0, self.weigh)

    def weigh(self) -> None:
        """Everything is as it was at first."""
        assert self.daemon is not None
        if any(child._tool()[0] != "ipmon" for child in self.children):
            self.after(0.0105, self.weigh)
            return
        self.no_errors()
        self.compare_rules(set(naive.names(self.settings)))
        self.forget()
        after = sizes(self.daemon)
        more = {name: (self.before.get(name, 0), count) for name, count in after.items()
                if count > self.before.get(name, 0)}
        assert not more, more
        self.over()

    def forget(self) -> None:
        self.events.clear()
        self.log.clear()

    def no_errors(self) -> None:
        for when, record in self.log:
            assert record.exc_info is None, f"{when - 1000:.3f}: {record.exc_info}"


def run(seed: int, directory: Path) -> None:
    world = Run(seed, directory)
    (directory / "bin").mkdir()
    for tool in ("ipnat", "ipf", "ipfstat", "ipmon", "check"):
        (directory / "bin" / tool).write_text("#!/bin/sh\n")
        (directory / "bin" / tool).chmod(0o755)
    try:
        with simulated(world):
            world.go()
    finally:
        if "L4IP_SEED" in os.environ:
            print(*world.story, sep="\n")


def test_the_daemon_is_as_the_model_says(tmp_path: Path) -> None:
    def live(seed: int) -> None:
        directory = tmp_path / str(seed)
        directory.mkdir()
        run(seed, directory)
        shutil.rmtree(directory)

    assert repeat(live, SECONDS)
