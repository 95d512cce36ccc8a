"""Make a table of the kernel equal to a wanted set of rules.

::

             touch / audit / retry                nothing to do
   IDLE  ------------------------------> DECIDE -----------------> IDLE
    ^                                     |  | stale: list
    | failed: stale, and                  |  | removals that hurt nobody, then additions,
    | wait 0.2 s * 2^n, at most 30 s      |  | then other removals; at last read back once
    +------------------------------- RUNNING (exactly one child)
                                          | clean exit: have := listing | have + added | have - removed
                                          +--> DECIDE

Rules for whoever changes this file. Wish and belief are whole sets of canonical lines. Only a finished child assigns
``have``. A clean exit (status 0, nothing on standard error) is believed until the table is read back; anything else
makes the belief stale: list again, and send what is still missing. That also heals the rule that ipnat loses after a
failed one (FACTS.md 2b-6). After three failures in a row the batches shrink to one line: a line that is rejected then
blocks only itself, is named, and is tried again later.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from l4ipd.child import Child, Exit
from l4ipd.internal_errors import InternalErrors
from l4ipd.ipfilter import explain, side
from l4ipd.lines import Lines
from l4ipd.loop import Loop, Timer
from l4ipd.model import Words

FIRST_WAIT, LONGEST_WAIT, HURRIED_WAIT = 0.2, 30.0, 1.0      # seconds between two tries
PATIENCE = 3                                        # failures in a row until lines are sent one by one
BATCH = 400                                         # most lines of one run: they fit into a pipe, so that a kill -9
                                                    # can not leave ipnat with half a line
log = logging.getLogger("l4ipd.rules")


@dataclass(frozen=True)
class Table:
    """One table of the kernel, and the commands that list and change it."""

    name: str                                       # the tool, for messages
    key: str                                        # where the configuration names the tool
    listing: Words
    adding: Words
    removing: Words
    purging: Words                                  # removes the rules' sessions too; the same as removing if it cannot
    read: Callable[[str], str | None]               # a listed line -> its canonical line if the rule is ours
    feed: Callable[[str], str]                      # a canonical line -> the words for this version
    end: str | None = None                          # the line that ends a listing; None: its end does
    bare: Callable[[str], str] = str                # a listed line -> the words that remove its rule

    def reads_as(self, other: Table) -> bool:
        """Whether a listing that was read for the other holds for this one, too."""
        return (self.listing, self.read, self.end, self.bare) == (other.listing, other.read, other.end, other.bare)


@dataclass
class Held:
    """A line that the tool does not take, or does not let go."""

    words: str
    delay: float
    until: float


class Reconciler:
    """Keeps one table equal to :attr:`want`.

    ``removal(line)`` says how a rule that is no longer wanted is to go: "purge", "drain", or None for not yet.
    ``listed()`` is called whenever the table has been read, before anything is decided from it; ``repaired(lines)``
    when rules turn out to have been removed by somebody else.
    """

    def __init__(self, loop: Loop, table: Table, timeout: float, resync: float, *,
                 removal: Callable[[str], str | None], listed: Callable[[], object] = lambda: None,
                 repaired: Callable[[list[str]], object] = lambda lines: None) -> None:
        self.loop, self.table, self.timeout, self.resync = loop, table, timeout, resync
        self.removal, self.listed, self.repaired = removal, listed, repaired
        self.want: dict[str, None] = {}             # in the order in which to load them
        self.have: dict[str, str] = {}              # canonical line -> the words in which the kernel lists it
        self.held: dict[str, Held] = {}
        self.problem = ""                           # why the table cannot be read at present
        self.complaint = ""                         # what the last failed change said, until all is as wanted
        self._complaints: set[str] = set()          # what was logged meanwhile
        self.stale = True                           # have is not to be trusted
        self.proven = False                         # have was read from the kernel after the last change
        self.pause = False                          # start nothing
        self.look_only = False                      # read the table, change nothing
        self.runs = self.failed_runs = self.repairs = 0
        self._dirty = True
        self._failures = 0
        self._failed_at = 0.0
        self._batch = BATCH
        self._child: Child | None = None
        self._touched: set[str] = set()             # what we added or removed since the last listing
        self._suspects: dict[str, str] = {}         # lines of a failed run of one, and what was said
        self._ever_listed = False
        self._retry = Timer(lambda: None)           # ending the sleep is enough
        self._retry_at = 0.0
        self._audit = Timer(self.reread)
        self._release = Timer(self.touch)
        loop.hook(self.decide)

    # -- from outside

    def touch(self) -> None:
        """Something that bears on the wish has changed."""
        self._dirty = True

    def hurry(self) -> None:
        """The wish is another now: after a failure it is tried again within a second, however long the wait had become.
        """
        self.touch()
        if self._retry.is_set:
            soon = max(self.loop.now, self._failed_at + HURRIED_WAIT)
            self._retry_at = min(soon, self._retry_at)
            self.loop.set(self._retry, self._retry_at)

    def reread(self) -> None:
        """Read the table at the next occasion, whatever we believe."""
        self.proven = False
        self.touch()

    @property
    def settled(self) -> bool:
        """The table was read after the last change, and is as wanted, but for what is held."""
        return self._ever_listed and self.proven and not self.stale and not self._dirty and self._child is None

    @property
    def busy(self) -> bool:
        return self._child is not None

    def use(self, table: Table, timeout: float, resync: float) -> None:
        """Work with other commands from now on: the table has to be read again."""
        if (table, timeout, resync) != (self.table, self.timeout, self.resync):
            if not table.reads_as(self.table):
                self.stale = True
            self.table, self.timeout, self.resync = table, timeout, resync
            self.loop.clear(self._retry)
            self.held.clear()
        self.touch()

    # -- deciding

    def decide(self) -> None:
        """The hook of the loop: start the next child if there is one to start."""
        if not self._dirty or self.pause or self._child is not None or self._retry.is_set:
            return
        self._dirty = False
        if not self.loop.errors.shield(f"the rules of {self.table.name} are looked at again", self._decide):
            self._start_over()

    def _decide(self) -> None:
        if self.stale:
            self._list()
            return
        if self.look_only:
            return
        command, lines = self._next()
        if lines:
            self._change(command, lines[:self._batch])
        elif not self.proven:
            self._list()
        else:
            self._at_rest()

    def _next(self) -> tuple[str, list[str]]:
        """The most urgent batch: (add | drain | purge, lines).

        Clients of a dead member hurt most, so its rules go first, unless they are the last of their service and others
        are about to come: add before remove.
        """
        missing = [line for line in self.want if line not in self.have and not self._is_held(line)]
        going: dict[str, list[str]] = {"purge": [], "drain": []}
        for line in self.have:
            if line not in self.want and not self._is_held(line):
                way = self.removal(line)
                if way is not None:
                    going[way].append(line)
        waiting = {side(line) for line in missing}
        urgent = [line for line in going["purge"] if side(line) not in waiting]
        if urgent:
            return "purge", urgent
        if missing:
            return "add", missing
        return ("purge", going["purge"]) if going["purge"] else ("drain", going["drain"])

    def _is_held(self, line: str) -> bool:
        return line in self.held and self.held[line].until > self.loop.now

    def _at_rest(self) -> None:
        if not self.held:
            self._failures = 0
            self._batch = BATCH
            self.complaint = ""
            self._complaints.clear()
        else:
            self.loop.set(self._release, min(held.until for held in self.held.values()))
        self.loop.set(self._audit, self.loop.now + self.resync)

    # -- changing

    def _change(self, command: str, lines: list[str]) -> None:
        words = {"add": self.table.adding, "drain": self.table.removing, "purge": self.table.purging}[command]
        text = [self.table.feed(line) if command == "add" else self.have[line] for line in lines]
        log.debug("%s: %s: %s", self.table.name, command, "; ".join(text))
        self._start(words, lambda end: self._changed(command, lines, end), "\n".join(text) + "\n")

    def _changed(self, command: str, lines: list[str], end: Exit) -> None:
        self.proven = False
        if not end.clean:
            self.stale = True
            self._suspects = dict.fromkeys(lines, self._words(end)) if len(lines) == 1 else {}
            self._failed()
            if len(lines) == 1 and self._failures >= PATIENCE:
                self.loop.clear(self._retry)        # it will be held: the others need not wait
            if self._failures > 1:                  # one failure may be a rule that was there, or not there, already
                self._complain(self._words(end))
            return
        for line in lines:
            if command == "add":
                self.have[line] = self.table.feed(line)
            else:
                del self.have[line]
        self._touched.update(lines)
        self._batch = min(BATCH, self._batch * 2)

    # -- listing

    def _list(self) -> None:
        listing = Listing(self.table, self.have, self.loop.errors)
        self._start(self.table.listing, lambda end: self._was_listed(listing, end), output=listing.feed)

    def _was_listed(self, listing: Listing, end: Exit) -> None:
        if not listing.complete and (self.table.end is not None or end.status != 0 or end.timed_out):
            self.stale = True
            self._failed()
            words = "its listing was cut short" if end.clean else self._words(end)
            if words != self.problem:
                log.error("%s: %s; trying again", self.table.name, words)
                self.problem = words
            return
        if self.problem:
            log.info("%s works again", self.table.name)
            self.problem = ""
        was_trusted = self._ever_listed
        before, self.have = self.have, listing.rules
        self.stale, self.proven, self._ever_listed = False, True, True
        self.listed()
        if was_trusted:
            self._compare(before)
        self._touched.clear()
        self._judge_suspects()

    def _compare(self, before: Collection[str]) -> None:
        """What should be there and is not: lost to somebody else, or never loaded although the tool said so."""
        gone = [line for line in before if line not in self.have and line in self.want]
        lost = [line for line in gone if line not in self._touched]
        if lost:
            self.repairs += len(lost)
            log.warning("%s of ours had been removed by somebody else and will be put back: %s",
                        f"{len(lost)} rules" if len(lost) > 1 else "a rule", lost[0])
            self.repaired(lost)
        lies = [line for line in self._touched if (line in before) != (line in self.have)]
        if lies:
            self._suspects = dict.fromkeys(lies, "it reported success, but the kernel's table says otherwise")
            self._failed()
            self._complain(f"reported success, but the kernel's table says otherwise: {lies[0]}")

    def _judge_suspects(self) -> None:
        """Hold lines that failed alone, again and again, and are still not as they should be."""
        for line, words in self._suspects.items():
            if self._failures >= PATIENCE and (line in self.want) != (line in self.have):
                self._hold(line, words)
        self._suspects = {}
        for line in [line for line in self.held if (line in self.want) == (line in self.have)]:
            del self.held[line]

    def _hold(self, line: str, words: str) -> None:
        known = self.held.get(line)
        delay = min(LONGEST_WAIT, known.delay * 2) if known else 1.0
        if known is None or known.words != words:
            log.error("%s does not %s this rule, which will be tried again: %s: %s", self.table.name,
                      "load" if line in self.want else "remove", line, words)
        self.held[line] = Held(words, delay, self.loop.now + delay)
        self._batch = 1
        self._failures = PATIENCE
        self.loop.clear(self._retry)

    # -- running

    def _start(self, words: Words, done: Callable[[Exit], object], text: str = "",
               output: Callable[[bytes], bool] | None = None) -> None:
        def ended(end: Exit) -> None:
            self._child = None
            self._dirty = True
            if not self.loop.errors.shield(f"a run of {self.table.name} is done again", done, end):
                self._start_over()

        self.runs += 1
        self._child = Child(self.loop, words, stdin=text.encode(), timeout=self.timeout, done=ended, output=output)

    def _start_over(self) -> None:
        """After an exception that nobody expected: nothing is believed, and there is no hurry."""
        self.stale = self._dirty = True
        self._failed()

    def _failed(self) -> None:
        """Count it, and wait before the next run."""
        self.failed_runs += 1
        self._failures += 1
        if self._failures >= PATIENCE:
            self._batch = 1
        delay = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._failures - 1, 10))
        self._failed_at = self.loop.clock()
        self._retry_at = self._failed_at + delay
        self.loop.set(self._retry, self._retry_at)

    def _complain(self, words: str) -> None:
        """Say once what goes wrong with changes."""
        if words not in self._complaints:
            log.error("%s: %s; trying again", self.table.name, words)
            self._complaints.add(words)
        self.complaint = words

    def _words(self, end: Exit) -> str:
        if end.status is None:
            named = end.errno not in (errno.ENOENT, errno.EACCES, errno.ENOEXEC)
            return end.error if named else f"{end.error}: name it in the configuration, {self.table.key}"
        return explain(end.status, end.stderr.decode(errors="replace"), end.timed_out)


class Listing:
    """Reads a listing as it streams, and stops where the rules end: the sessions behind them may be a million."""

    def __init__(self, table: Table, before: Mapping[str, str], errors: InternalErrors) -> None:
        self.table, self.before = table, before
        self.rules: dict[str, str] = {}
        self.complete = False
        self._errors = errors
        self._lines = Lines()

    def feed(self, chunk: bytes) -> bool:
        """Take a piece; True when everything that matters was seen."""
        return self._errors.each(f"a line of the listing of {self.table.name} is left out", self._take,
                                 self._lines.feed(chunk))

    def _take(self, raw: bytes) -> bool:
        """True at the end of the rules."""
        line = raw.decode(errors="replace").strip("\r")
        if line == self.table.end:
            self.complete = True
            return True
        canonical = None if line.startswith("\t") else self.table.read(line)
        if canonical is not None:
            words, known = self.table.bare(line), self.before.get(canonical)
            self.rules[canonical] = known if known == words else words      # not another copy of the same
        return False
