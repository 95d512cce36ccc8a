"""Make a table of the kernel equal to a wanted set of rules.

::

             touch / audit / a wait is over                nothing to do
   IDLE  --------------------------------------> DECIDE -----------------> IDLE
    ^                                             |  | stale: list
    |                                             |  | removals that hurt nobody, then additions,
    |                                             |  | then other removals; at last read back once
    +---------------------------------------- RUNNING (exactly one child)
                                                  | a listing that is believed: have := listing, and judge what was
                                                  |     tried since the last one; what failed waits (backoff, held)
                                                  | a change: clean, have := have + added | have - removed
                                                  |           else stale
                                                  +--> DECIDE

Rules for whoever changes this file. Wish and belief are whole sets of canonical lines. Only a finished child changes
the belief. A clean exit (status 0, nothing on standard error) is believed until the table is read back; anything else
makes the belief stale: list again, and send what is still missing. That also heals the rule that ipnat loses after a
failed one (FACTS.md 2b-6). What has succeeded and what has not, only the table says, never the exit of a tool.

When a tool works again, the table is right within five seconds: no wait is longer than three, anything that succeeds
ends the waits of the rest, and a run that hangs is not waited for once its tool answers (:mod:`l4ipd.ipfilter.runner`);
only the one after that is, for whoever is never waited for never ends, if the tool is but slow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from l4ipd.ipfilter.batches import next_batch
from l4ipd.ipfilter.belief import Belief
from l4ipd.ipfilter.changes import LIE, Changes
from l4ipd.ipfilter.conflicts import LOST, Conflicts
from l4ipd.ipfilter.faults import Faults
from l4ipd.ipfilter.held_lines import Attempt, Held
from l4ipd.ipfilter.listing import Listing, Table
from l4ipd.ipfilter.resync import Budget, Resync
from l4ipd.ipfilter.runner import Question, Runner, Spawn
from l4ipd.model import Words
from l4ipd.runtime.backoff import Backoff
from l4ipd.runtime.child import Exit
from l4ipd.runtime.loop import Loop, Timer

log = logging.getLogger("l4ipd.rules")


class Reconciler:
    """Keeps one table equal to :attr:`want`.

    ``removal(line)`` says how a rule that is no longer wanted is to go: "purge", "drain", or None for not yet.
    ``listed()`` is called whenever the table has been read, before anything is decided from it; ``repaired(lines)``
    when rules turn out to have been removed by somebody else. ``whose(line)`` tells of a rule of ours that we have not
    loaded whose it may be (:class:`l4ipd.ipfilter.conflicts.Conflicts`). The table is read again every ``resync``
    seconds, or less often, as ``budget`` has it.

    Many attributes: a third are what it was given; of the rest, most are the small objects that it is made of.
    """

    def __init__(self, loop: Loop, table: Table, timeout: float, resync: float, *,
                 removal: Callable[[str], str | None], listed: Callable[[], object] = lambda: None,
                 repaired: Callable[[list[str]], object] = lambda lines: None,
                 whose: Callable[[str], str] = lambda line: "", budget: Budget | None = None,
                 spawn: Spawn | None = None) -> None:
        self.loop, self.table, self.timeout = loop, table, timeout
        self.removal, self.listed, self.repaired = removal, listed, repaired
        self.want: dict[str, None] = {}             # in the order in which to load them
        self.belief = Belief()
        self.conflicts = Conflicts(whose)
        self.faults = Faults()
        self.pause = False                          # start nothing
        self.look_only = False                      # read the table, change nothing
        self.hasty = False                          # read it only when something is known to be amiss
        self.repairs = 0
        self._changes, self._listings = Changes(loop, self.touch, self._name), Backoff(loop, self.touch)
        self._restarts = Backoff(loop, self.touch)  # after exceptions: a listing that works does not end these waits
        self._runner = Runner(loop, spawn, self._torn)
        self._dirty = True
        self._rests = False                         # all that can be done at present is done
        self._wake = Timer(self.touch)
        self.resync = Resync(loop, resync, budget or Budget(), self.reread)
        loop.hook(self.decide)

    # -- from outside

    def touch(self) -> None:
        """Something that bears on the wish has changed."""
        self._dirty = True

    def wish(self, want: dict[str, None]) -> None:
        """The lines that there are to be, in the order in which to load them."""
        self.want = want
        self.touch()

    def hold_changes(self, hold: bool) -> None:
        """Read the table and change nothing, or go on."""
        self.look_only = hold

    def suspend(self) -> None:
        """Start nothing more, until :meth:`resume`."""
        self.pause = True

    def resume(self) -> None:
        self.pause = False
        self.touch()

    def be_quick(self) -> None:
        """It is nearly over: read the table only when something is known to be amiss."""
        self.hasty = True
        self.touch()

    def hurry(self) -> None:
        """The wish is another now: after a failure it is tried again at once, however long the wait had become."""
        self.touch()
        self._listings.news()
        self._changes.backoff.news()

    def reread(self) -> None:
        """Read the table at the next occasion, whatever we believe."""
        self.belief.proven = False
        self.touch()

    def knows(self, line: str) -> bool:
        """Whether a rule is ours because we have loaded or adopted it, and it may be there still."""
        return line in self.belief.have or line in self._changes.tried

    @property
    def have(self) -> Mapping[str, str]:
        """What is in the table, as far as we know: canonical lines, and the words in which they are listed."""
        return self.belief.have

    @property
    def stale(self) -> bool:
        """``have`` is not to be trusted."""
        return self.belief.stale

    @property
    def held(self) -> Mapping[str, Held]:
        """Lines that the tool does not take at present, or does not let go."""
        return self._changes.held.lines

    @property
    def problem(self) -> str:
        """Why the table cannot be read at present."""
        return self.faults.problem

    @property
    def complaint(self) -> str:
        """What the last failed change said, until all is as wanted."""
        return self.faults.complaint

    @property
    def contested(self) -> bool:
        """Somebody else changes what is ours, again and again."""
        return self.conflicts.contested(self.loop.now)

    @property
    def settled(self) -> bool:
        """The table was read after the last change, and is as wanted, but for what is held."""
        return self._rests and not self._dirty and not self._runner.busy

    @property
    def busy(self) -> bool:
        return self._runner.busy

    @property
    def undone(self) -> str:
        """What is not as it should be, in words, as far as we know; empty if nothing is."""
        amiss = self._amiss()
        if not amiss:
            return ""
        verb = "loaded" if amiss[0] in self.want else "removed"
        count = f"{len(amiss)} rules are" if len(amiss) > 1 else "a rule is"
        why = self.problem or self.complaint or (self.held[amiss[0]].words if amiss[0] in self.held else "")
        return f"{count} not {verb}: {amiss[0]}{': ' + why if why else ''}"

    def _amiss(self) -> list[str]:
        """Rules that are there and should not be, or should be and are not, or may be either."""
        return self.belief.amiss(self.want, self._changes.failures, lambda line: self.removal(line) is not None)

    def known(self) -> set[str]:
        """Every rule that is ours, or is about to be, or may be."""
        return {*self.want, *self.belief.have, *self._changes.tried}

    @property
    def runs(self) -> int:
        """How many runs of the tools there were."""
        return self._runner.runs

    def use(self, table: Table, timeout: float, resync: float) -> None:
        """Work with other commands from now on: the table has to be read again, and may be another one."""
        if (table, timeout, resync) != (self.table, self.timeout, self.resync.least):
            if (table.listing, table.adding) != (self.table.listing, self.table.adding):
                self.belief.forget_table()
            elif not table.reads_as(self.table):
                self.belief.stale = True
            self.table, self.timeout, self.resync.least = table, timeout, resync
            self._listings.succeeded()
            self._changes.forget()
            self._runner.forget()
        self.touch()

    # -- deciding

    def decide(self) -> None:
        """The hook of the loop: start the next child if there is one to start."""
        if not self._dirty or self.pause or self._runner.busy or self._restarts.waiting:
            return
        self._dirty = self._rests = False
        self.loop.news()
        if not self.loop.errors.shield(f"the rules of {self.table.name} are looked at again", self._decide):
            self._start_over()

    def _decide(self) -> None:
        if self.hasty and not self._amiss():
            self._rest()
        elif self.belief.stale:
            if not self._listings.waiting:
                self._list()
        elif not self.look_only:
            self._go_on()

    def _go_on(self) -> None:
        """What we believe is to be trusted: change what differs, and then read it back."""
        now = self.loop.now
        command, lines = next_batch(self.want, self.belief, self._changes.held, now,
                                    lambda line: None if self.conflicts.spared(line, now) else self.removal(line))
        if lines:
            if not self._changes.backoff.waiting:
                self._change(command, lines)
        elif self.belief.proven:
            self._rest()
        elif self.table.iterator.quiet_until > self.loop.now:
            self._sleep()
        elif not self._listings.waiting:
            self._list()

    def _rest(self) -> None:
        self._rests = True
        self._restarts.succeeded()
        if not self.held:
            self._changes.forget()
            self.faults.over()
        self._sleep()
        self.resync.rest()

    def _sleep(self) -> None:
        """Until something that waits for its time is due."""
        now = self.loop.now
        times = self._changes.held.next(now), self.table.iterator.quiet_until, self.conflicts.due
        due = min(time for time in times if time > now)     # the first is, and may be never
        if due < float("inf"):
            self.loop.set(self._wake, due)

    # -- changing

    def _change(self, command: str, lines: list[str]) -> None:
        words = {"add": self.table.adding, "purge": self.table.purging}.get(command, self.table.removing)
        text = [self._changes.text(command, line, self.table, self.belief) for line in lines]
        log.debug("%s: %s: %s", self.table.name, command, "; ".join(text))
        self._changes.begin(command, lines, self.belief)
        self._run("change", words, lambda end, broken_off: self._changed(command, lines, end, broken_off),
                  ("\n".join(text) + "\n").encode())

    def _changed(self, command: str, lines: list[str], end: Exit, broken_off: bool) -> None:
        self.belief.proven = False
        stuck = self._changes.in_use(lines, end, self.table)
        if end.clean or stuck:
            for line in lines:
                if line not in stuck:
                    self._done(command, line)
            if stuck:
                self._changes.backoff.succeeded()   # the tool works
            elif self._changes.backoff.failures:
                self.belief.stale = True            # what it says has to be confirmed
            else:
                self._changes.held.grow()
            return
        self.faults.runs += 1
        self._changes.failed(lines, self.table.complaint(end), broken_off)
        self.belief.stale = True

    def _done(self, command: str, line: str) -> None:
        if command == "add":
            self.belief.added(line, self.table.feed(line))
        elif command == "copy":
            self.belief.copies.pop(line, None)      # the next listing will tell if there is one more
        else:
            self.belief.removed(line)

    # -- listing

    def _list(self) -> None:
        listing = Listing(self.table, self.belief.have, self.loop.errors)
        self._run("list", self.table.listing, lambda end, broken_off: self._was_listed(listing, end, broken_off),
                  output=listing.feed)

    def _was_listed(self, listing: Listing, end: Exit, broken_off: bool) -> None:
        if not listing.ended(end, self.loop.now):
            self._unreadable("its listing was cut short" if end.clean else self.table.complaint(end))
            if broken_off:
                self._listings.skip()
            return
        if self._listings.failures:
            self._changes.backoff.news()
        self._listings.succeeded()
        self.resync.listed(end, listing.lines)
        self.faults.read(self.table.name)
        leaving = {line for line, attempt in self._changes.tried.items() if attempt.command != "add"}
        torn = self.table.iterator.came_to_its_end(self.loop.now)
        if torn or not listing.table.reads_as(self.table) or self.belief.wants_another(listing, leaving):
            self.belief.stale = True                # and read again
        else:
            self._believe(listing)

    def _torn(self, behind_the_rules: bool) -> None:
        """A listing from which only its end was wanted did not come to it, or was left there."""
        if behind_the_rules:
            self.table.iterator.cut(self.loop.now)
        else:
            self.table.iterator.tear()

    def _unreadable(self, words: str) -> None:
        self.belief.stale = True
        self._listings.failed()
        self.faults.unread(self.table.name, words)

    def _believe(self, listing: Listing) -> None:
        first, before = not self.belief.ever, self.belief.have
        tried = self._changes.take()
        self.belief.take(listing)
        self.listed()
        have = self.belief.have
        self.conflicts.appeared([line for line in have if line not in before and line not in tried], have,
                             self.loop.now, self.resync.often, self.table.mark)
        if not first:
            self._lost([line for line in before if line not in have and line in self.want and line not in tried])
        self._judge(tried)

    def _lost(self, lines: list[str]) -> None:
        """What should be there and is not, although we have not touched it."""
        if lines:
            self.repairs += len(lines)
            late = self.conflicts.removed(lines, self.loop.now, self.resync.often, self.table.mark)
            for line, until in late.items():
                self._changes.held.pause(line, LOST, until)
            self.repaired(lines)

    def _judge(self, tried: Mapping[str, Attempt]) -> None:
        """What has become of all that was tried since the table was read last?"""
        done, undone = self._changes.judge(tried, self.belief)
        for line in done:
            if not tried[line].words:
                change = self.conflicts.put_back if tried[line].command == "add" else self.conflicts.taken_out
                change(line, self.loop.now, self.resync.often)
        lies = [line for line, attempt in undone.items() if attempt.words == LIE]
        self.faults.runs += bool(lies)
        if lies:
            self.faults.unchanged(self.table.name,
                                  f"reported success, but the kernel's table says otherwise: {lies[0]}")
        elif undone and self._changes.backoff.failures > 1:     # one failure may be chance
            self.faults.unchanged(self.table.name, next(iter(undone.values())).words)
        self._changes.held.settle(self._is_right)
        self.conflicts.settle(self._is_right)

    def _is_right(self, line: str) -> bool:
        return (line in self.want) == (line in self.belief.have) and line not in self.belief.copies

    # -- running

    def _run(self, kind: str, words: Words, done: Callable[[Exit, bool], object], stdin: bytes = b"",
             output: Callable[[bytes], bool] | None = None) -> None:
        listing, last = self.table.listing, (self.table.end or "").encode()
        question = Question(listing, last) if kind == "list" else Question(self.table.adding)

        def ended(end: Exit, broken_off: bool) -> None:
            self._dirty = True
            if not self.loop.errors.shield(f"a run of {self.table.name} is done again", done, end, broken_off):
                self._start_over()

        self._runner.start(kind, words, question, self.timeout, ended, stdin=stdin, output=output)

    def _start_over(self) -> None:
        """After an exception that nobody expected: nothing is believed, and there is no hurry."""
        self.belief.stale = self._dirty = True
        self._restarts.failed()

    def _name(self, line: str, words: str) -> None:
        log.error("%s does not %s this rule, which will be tried again: %s: %s", self.table.name,
                  "load" if line in self.want else "remove", line, words)
