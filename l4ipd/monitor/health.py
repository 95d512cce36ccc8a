"""How verdicts become up or down. Pure: no clock, no input, no output.

The health of an endpoint is one integer, HAProxy's counter::

      0 ......... rise-1 | rise ........... rise+fall-1
      down, climbing     | up, descending           top

A pass climbs one and, once up, goes to the top; a failure descends one and, once down, goes to the bottom. So it takes
``rise`` passes in a row to come up and ``fall`` failures in a row to go down.

A member may say that it wants to be left: it *drains* at once. Then the same integer counts in both directions, from 0,
to which it goes back whenever the member says so again::

    -fall ... -1 | 0 | 1 .... rise-1 | rise
    goes down        comes up
"""

from __future__ import annotations


def top(rise: int, fall: int) -> int:
    """The health of an endpoint that is up beyond doubt."""
    return rise + fall - 1


def step(health: int, rise: int, fall: int, passed: bool) -> int:
    """The health after one more verdict."""
    if passed:
        return health + 1 if health + 1 < rise else rise + fall - 1
    return health - 1 if health > rise else 0


def step_draining(health: int, rise: int, fall: int, passed: bool) -> int:
    """The health of one that drains after a verdict that says nothing of draining: ``rise`` in a row bring it up, and
    at ``-fall`` it is down."""
    if passed:
        return rise + fall - 1 if max(health, 0) + 1 >= rise else max(health, 0) + 1
    return min(health, 0) - 1


def fresh(rise: int) -> int:
    """The health of an endpoint never seen before: down, and its first pass brings it up."""
    return rise - 1


def adopted(rise: int) -> int:
    """The health of an endpoint whose rule was found in the kernel: up, and its first failure takes it down."""
    return rise
