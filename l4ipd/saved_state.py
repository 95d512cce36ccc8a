"""What one run leaves to the next: what the operator disabled, what was up and since when, and which rules are ours.

The kernel's table stays the first witness. Whether an endpoint starts *up* is decided by its rules in the kernel and by
its probes, never by this file: after a reboot the table is empty, the first probes are a second away, and a file that
says "up" of a member that died meanwhile would send clients to it. The file only tells *since when*, and that is
forgotten after an hour. What the operator disabled, or took out of service, never expires. The rules are those that the
next run cannot tell to be ours by their tag, for want of one (``tag: no``) or because it was another before a reload.
So are the tags and tables of the ipf rules for sensing resets, since the configuration of the next run may not have
that section any more.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from l4ipd.config import values
from l4ipd.model import Member
from l4ipd.monitor import flapping
from l4ipd.runtime import regular_file

VERSION = 1
OLD = 3600.0                                        # seconds after which "since when" is forgotten
SLACK = 1.0                                         # seconds that a time may be in the future
SIZE_LIMIT = 64 << 20                               # bytes
LONGEST_USER = 100                                  # characters of a name
log = logging.getLogger("l4ipd.state")


class Hold(NamedTuple):
    """How an endpoint was held down that flapped."""

    times: int                                      # in a row
    until: float                                    # the last time, seconds since the epoch
    held: bool                                      # that had not ended


@dataclass(frozen=True)
class Saved:
    """What the file holds. Times are seconds since the epoch; None: not known."""

    disabled: Mapping[str, float | None] = field(default_factory=dict)  # endpoint -> since when
    states: Mapping[str, tuple[bool, float | None]] = field(default_factory=dict)       # endpoint -> up?, since when
    rules: frozenset[str] = frozenset()                                 # canonical lines
    tables: frozenset[str] = frozenset()            # of ipf, where rules of ours may be: log, log6, count, count6
    tags: frozenset[int] = frozenset()              # that our log rules bear
    counts: frozenset[str] = frozenset()            # canonical lines of our count rules, which bear none
    left: Mapping[str, float | None] = field(default_factory=dict)      # cluster, or "" for all -> since when
    ready: Mapping[str, bool] = field(default_factory=dict)             # cluster -> what was told of it last
    draining: frozenset[str] = frozenset()          # endpoints that are not up, but alive
    cut: frozenset[str] = frozenset()               # disabled endpoints whose sessions were to end at once
    discovered: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)  # what sources of members said last
    users: Mapping[str, str] = field(default_factory=dict)      # disabled endpoint -> who did it, where that is known
    until: Mapping[str, float] = field(default_factory=dict)    # disabled endpoint -> when it is to be enabled again
    held: Mapping[str, Hold] = field(default_factory=dict)      # endpoints that have flapped
    rdr_tags: frozenset[str] = frozenset()          # that rules of ours in the NAT table may bear

    def seen(self, name: str) -> str:
        """The state of an endpoint that is in ``states``: up, down, draining or held."""
        if name in self.held and self.held[name].held:
            return "held"
        return "up" if self.states[name][0] else "draining" if name in self.draining else "down"

    def age(self, name: str, now: float) -> float:
        """How many seconds ago ``name`` went up, or down; 0 if that is not known."""
        when = self.states[name][1]
        return 0.0 if when is None else max(0.0, now - when)


def load(path: str, now: float | None = None) -> Saved:
    """Read the file; without one, or with one that is of no use, nothing is saved, and the log says why."""
    try:
        text = regular_file.read(path, SIZE_LIMIT)
        return decode(text, time.time() if now is None else now, path)
    except FileNotFoundError:
        return Saved()
    except OSError as error:
        log.warning("%s: ignored: %s", path, error.strerror)
    except ValueError as error:
        try:
            os.replace(path, f"{path}.bad")
            log.warning("%s: ignored, and kept as %s.bad: %s: nothing is disabled any more", path, path, error)
        except OSError:
            log.warning("%s: ignored: %s", path, error)
    return Saved()


def decode(text: bytes, now: float, path: str = "state") -> Saved:
    """Raises ValueError with the reason if ``text`` is no state."""
    if len(text) > SIZE_LIMIT:
        raise ValueError(f"it is larger than {SIZE_LIMIT >> 20} MB")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is damaged") from None
    if not isinstance(data, dict) or "version" not in data:
        raise ValueError("it is not a state file of l4ipd")
    if data["version"] != VERSION:
        raise ValueError(f"it is of version {str(data['version'])[:20]}, and this l4ipd writes version {VERSION}")
    try:
        written = _number(data["written"])
        disabled = {str(name): _time(when, now) for name, when in data["disabled"].items()}
        states = {str(name): (bool(up), _time(when, now)) for name, (up, when) in data["endpoints"].items()}
        rules = frozenset(str(line) for line in data["rules"])
        filters = data.get("filters", {})           # absent in files of before
        tables = frozenset(str(name) for name in filters.get("tables", ()))
        tags = frozenset(_tag(tag) for tag in filters.get("tags", ()))
        counts = frozenset(str(line) for line in filters.get("counts", ()))
        left = {str(name): _time(when, now) for name, when in data.get("left", {}).items()}
        ready = {str(name): bool(said) for name, said in data.get("ready", {}).items()}
        draining, cut = (frozenset(str(name) for name in data.get(key, ())) for key in ("draining", "cut"))
        discovered = {str(key): tuple(_member(*each) for each in members)
                      for key, members in data.get("discovered", {}).items()}
        users = {str(name): str(user)[:LONGEST_USER] for name, user in data.get("disabled_by", {}).items()}
        until = {str(name): _until(when, written, now) for name, when in data.get("disabled_until", {}).items()}
        held = {str(name): _hold(now, *each) for name, each in data.get("held", {}).items()}
        rdr_tags = frozenset(str(tag) for tag in data.get("rdr_tags", ()))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ValueError("it is damaged") from None
    if not 0 <= now - written <= OLD:
        age = (f"{(now - written) / 3600:.0f} h old" if 0 <= written < now else
               "from the future" if written > now else "of no known age")
        log.info("%s is %s: since when endpoints are up or down is forgotten%s", path, age,
                 "" if not disabled else "; what the operator disabled stays disabled")
        states, ready, held = {}, {}, {}
    return Saved(disabled, states, rules, tables, tags, counts, left, ready, draining, cut, discovered, users, until,
                 held, rdr_tags)


def _number(value: float) -> float:
    """A finite number, or ValueError."""
    if not math.isfinite(value):
        raise ValueError
    return float(value)


def _time(value: float | None, now: float) -> float | None:
    """When something was: from 0 to ``now``, give or take rounding, and a clock set back a little; else not known.

    What is not known is null: so it is written by a run that ends before it has looked at what it was left.
    """
    if value is None:
        return None
    when = _number(value)
    return min(when, now) if 0 <= when <= now + SLACK else None


def _until(value: float, written: float, now: float) -> float:
    """When something is to end; a clock that was set back since makes it no longer than it was when it was written."""
    when = _number(value)
    return min(when, now + max(0.0, when - written))


def _tag(value: int) -> int:
    """The number of a log tag, or ValueError."""
    if not 0 <= int(value) < 1 << 32:
        raise ValueError
    return int(value)


def _member(name: str, address: str, weight: int, fallback: bool, port: int | None) -> Member:
    """A member that a source gave, or ValueError."""
    if type(weight) is not int or not 0 <= weight <= 99 or port is not None and type(port) is not int:
        raise ValueError
    return Member(values.name(name), values.address(address), weight, bool(fallback),
                  None if port is None else values.port(str(port)))


def _hold(now: float, count: int, until: float, held: bool) -> Hold:
    """One that does not last for ever, whatever clock it was saved by, or ValueError."""
    if type(count) is not int or not 0 <= count <= 1 << 20:
        raise ValueError
    return Hold(count, min(_number(until), now + flapping.LONGEST), bool(held))


def encode(saved: Saved, now: float) -> bytes:
    """The text of the file."""
    return json.dumps({"version": VERSION, "written": now, "disabled": dict(saved.disabled),
                       "endpoints": dict(saved.states), "draining": sorted(saved.draining),
                       "cut": sorted(saved.cut), "rules": sorted(saved.rules),
                       "rdr_tags": sorted(saved.rdr_tags),
                       "filters": {"tables": sorted(saved.tables), "tags": sorted(saved.tags),
                                   "counts": sorted(saved.counts)},
                       "disabled_by": dict(saved.users), "disabled_until": dict(saved.until),
                       "left": dict(saved.left), "ready": dict(saved.ready), "held": dict(saved.held),
                       "discovered": {key: [(each.name, each.address, each.weight, each.fallback, each.port)
                                            for each in members] for key, members in saved.discovered.items()}}
                      ).encode() + b"\n"
