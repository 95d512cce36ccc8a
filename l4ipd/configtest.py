"""`l4ipd -n`: the rules that a configuration makes, what there is to be said against it, and what it will cost."""

from __future__ import annotations

import os
import sys

from l4ipd.config import capacity
from l4ipd.config.estimate import Estimate, estimate
from l4ipd.config.explain import explained
from l4ipd.config.exposure import exposures
from l4ipd.config.files import Refused, missing_tools
from l4ipd.config.own_certificates import expiring
from l4ipd.config.warnings import warnings
from l4ipd.descriptors import Descriptors, TooFew
from l4ipd.discovery.ask import ask
from l4ipd.ipfilter import plan
from l4ipd.ipfilter.host import shortcomings
from l4ipd.ipfilter.rdr import REMEDIES, explain
from l4ipd.model import Config, Ipfilter
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop


def configtest(config: Config, path: str, verbose: bool = False, at_home: bool = True) -> int:
    """-n: print the rules that would be loaded if every endpoint were up, and with ``verbose`` each check in words.

    ``at_home``: this machine is the gateway.
    """
    asked = ask(config)
    if asked.errors:
        raise Refused("\n".join(asked.errors))
    config = asked.config
    lines = plan.all_up(config)
    show_rules(lines)
    load = estimate(config)
    for words in (*asked.told, *(explained(config) if verbose else ())):
        print(words, file=sys.stderr)
    for warning in (*asked.warnings, *warnings(config), *exposures(config, path), *expiring(config),
                    *missing_tools(config), *shortages(config, load), *(shortcomings(config) if at_home else ())):
        print(f"warning: {warning}", file=sys.stderr)
    for line in (str(load), *capacity.lines(config)):
        print(f"load: {line}", file=sys.stderr)
    refusal = rehearse(config.ipfilter, lines)
    if refusal:
        print(f"ipnat -n refuses these rules: {refusal}", file=sys.stderr)
        return 1
    print("configuration OK", file=sys.stderr)
    return 0


def show_rules(lines: list[str]) -> None:
    """Print them. Raises Refused where that cannot be: whoever compares them with others must not believe a part."""
    try:
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # what is buffered would be tried again at the end
        raise Refused(f"the rules cannot be written: {(error.strerror or str(error)).lower()}") from None


def shortages(config: Config, load: Estimate) -> list[str]:
    """What this machine does not have enough of, as far as a process with our limits can tell."""
    try:
        budget = Descriptors(config, 3).budget
    except TooFew as problem:
        return [str(problem)]
    return load.warnings(budget.probes, budget.commands)


def rehearse(settings: Ipfilter, lines: list[str]) -> str:
    """Let ipnat parse the rules without loading them, if it can be used here. Returns what it has against them."""
    loop = Loop()
    ends: list[Exit] = []

    def done(end: Exit) -> None:
        ends.append(end)
        loop.stop()

    Child(loop, (*settings.ipnat, "-n", "-f", "-"), stdin="".join(f"{line}\n" for line in lines).encode(),
          timeout=settings.timeout, done=done)
    loop.run()
    loop.close()
    said = ends[0].stderr.decode(errors="replace")
    if ends[0].clean or ends[0].status is None or any(symptom in said for symptom, _ in REMEDIES):
        return ""
    return explain(ends[0].status, said, ends[0].timed_out)
