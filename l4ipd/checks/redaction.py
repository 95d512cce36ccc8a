"""A member may repeat what it was sent: no secret of ours comes back in the words of a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable

from l4ipd.checks.expect import SAFE
from l4ipd.checks.verdict import Verdict

PLAIN = {word: chr(byte) for byte, word in enumerate(SAFE)}
ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|[tnr])")     # how a verdict shows a byte that is not printable
TELLING = 5                                         # bytes of a secret in a row that must not be shown
HIDDEN = "got an answer that repeats a secret, which is not shown"


class Redaction:
    """Stands before the ``done`` of a probe that knows ``secrets``."""

    def __init__(self, done: Callable[[Verdict], object], secrets: tuple[bytes, ...]) -> None:
        self._done, self._secrets = done, secrets

    def __call__(self, verdict: Verdict) -> None:
        plain = ESCAPE.sub(lambda found: PLAIN.get(found[0], found[0]), verdict.text)
        if any(tells(text, secret.decode("latin-1")) for secret in self._secrets for text in (verdict.text, plain)):
            verdict = verdict._replace(text=HIDDEN)
        self._done(verdict)


def tells(text: str, secret: str) -> bool:
    """Whether a part of the secret is in the text; of one that is shorter than TELLING, all of it."""
    size = min(TELLING, len(secret))
    return any(text[at:at + size] in secret for at in range(len(text) - size + 1))
