"""One check in flight, whatever its transport.

A probe begins when it is made. It calls ``done(verdict)`` exactly once: maybe before :meth:`Prober.start` returns (a
member that refuses at once, our own trouble), never after ``cancel``. Time is the owner's business: it calls
``expire`` when the deadline has passed, and the probe delivers the verdict that fits the stage it was in. Only one that
had to wait for us may ask for more time instead, once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from l4ipd.checks.certificates import Certificates
from l4ipd.checks.exec import Command, Commands, places, prepare_command
from l4ipd.checks.ping import Ping, Pinger
from l4ipd.checks.recipe import KINDS, Method, Recipe, recipe, tls_of
from l4ipd.checks.redaction import Redaction
from l4ipd.checks.socket_pool import Sockets
from l4ipd.checks.tcp import Stream
from l4ipd.checks.udp import Datagram
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check, Endpoint
from l4ipd.runtime.loop import Loop

Done = Callable[[Verdict], object]


class Probe(Protocol):
    """What the owner of a probe may do with it. Both do nothing once it is over."""

    def expire(self) -> float | None:
        """The deadline has passed: deliver a verdict now, or return how many seconds it has lost through us."""

    def cancel(self) -> None:
        """No verdict is wanted any more: let go of everything."""


class Prober:
    """Starts probes, and owns what they share: sockets, of which ``spare`` of a kind may wait, and ``commands`` places
    for commands.
    """

    def __init__(self, loop: Loop, commands: int | None = None, spare: int | None = None) -> None:
        self.loop = loop
        self.commands = Commands(loop, commands or places())
        self.certificates = Certificates()
        self._sockets = [Sockets(loop, *kind, spare, self.certificates) for kind in KINDS]
        self._pingers = Pinger(loop, False), Pinger(loop, True)
        self._from: dict[tuple[str, int], Sockets] = {}         # by an address of ours, and kind
        self._pingers_from: dict[str, Pinger] = {}

    def start(self, recipe: Recipe, done: Done) -> Probe:
        transport = recipe.method.transport
        if transport == "tcp":
            return Stream(self._sockets[recipe.method.kind], recipe, done)
        if recipe.method.secrets:
            done = Redaction(done, recipe.method.secrets)
        if transport == "udp":
            return Datagram(self.loop, recipe, done)
        if transport == "icmp":
            return Ping(self._pinger(recipe.method), recipe, done)
        if transport == "exec":
            return Command(self.commands, recipe, done)
        sockets = self._sockets_from(recipe.method) if recipe.method.source else self._sockets[recipe.method.kind]
        return Stream(sockets, recipe, done)

    def _sockets_from(self, method: Method) -> Sockets:
        assert method.source is not None
        key = method.source, method.kind
        if key not in self._from:
            self._from[key] = Sockets(self.loop, *KINDS[method.kind], 0, self.certificates, method.source)
        return self._from[key]

    def _pinger(self, method: Method) -> Pinger:
        if method.source is None:
            return self._pingers[method.inet6]
        if method.source not in self._pingers_from:
            self._pingers_from[method.source] = Pinger(self.loop, method.inet6, method.source)
        return self._pingers_from[method.source]

    def close(self) -> None:
        """Give the shared sockets back."""
        for sockets in self._sockets:
            sockets.close()
        for pinger in (*self._pingers, *self._pingers_from.values()):
            pinger.close()


def prepare(check: Check, endpoints: Sequence[Endpoint] = ()) -> None:
    """See that what ``check`` of these endpoints needs of this machine is there: PEM files, programs, users.

    PEM files are read here, and again at the next call if they have changed; :func:`use_prepared` puts them to use.
    Raises ValueError: the key of the check, a colon, and what is wrong with it.
    """
    tls = tls_of(check)
    if tls is not None:
        from l4ipd.checks.tls_contexts import TlsError, prepare_tls  # 4 MB: not before a check needs it

        try:
            prepare_tls(tls)
        except TlsError as error:
            raise ValueError(f"{error.key}: {error}") from None
    if check.type == "exec":
        programs = {recipe(check, endpoint).command[0] for endpoint in endpoints} or {check.command[0]}
        prepare_command(programs, check.user)


def use_prepared() -> None:
    """The configuration that checks were prepared for is accepted: probes use the PEM files that were read for it."""
    contexts = sys.modules.get("l4ipd.checks.tls_contexts")
    if contexts is not None:
        contexts.use_prepared()
