"""``flap``: how often the state of an endpoint may change until it is held down."""

from __future__ import annotations

from l4ipd.config import values as words
from l4ipd.config.section import Section
from l4ipd.config.yaml_tree import Mapping, Scalar
from l4ipd.model import Flap

KEYS = ("changes", "within")
WHAT = "is {changes: 6, within: 5m}, or one of both, or no"
CHANGES = (2, 1000)
WITHIN = (1.0, 86400.0)                             # seconds


def flap(section: Section, before: Flap | None) -> Flap | None:
    """What a section says of it; ``before`` is what holds where it says nothing."""
    place = section.entry.get("flap")
    if place is None:
        return before
    if isinstance(place.node, Scalar) and words.is_no(place.node.text):
        return None
    if not isinstance(place.node, Mapping):
        place.refuse(WHAT)
        return before
    limits, plain = Section(place, KEYS), before or Flap()
    return Flap(limits.get("changes", lambda text: words.number(text, *CHANGES, "a number of changes"), plain.changes),
                limits.get("within", lambda text: words.bounded_duration(text, *WITHIN), plain.within))
