"""A member may repeat what it was sent: no secret of ours comes back in the words of a verdict."""

from __future__ import annotations

from collections.abc import Callable

from l4ipd.checks.verdict import Verdict

TELLING = 5                                         # bytes of a secret in a row that must not be shown
HIDDEN = "got an answer that repeats a secret, which is not shown"


class Redaction:
    """Stands before the ``done`` of a probe that knows ``secrets``."""

    def __init__(self, done: Callable[[Verdict], object], secrets: tuple[bytes, ...]) -> None:
        self._done, self._secrets = done, secrets

    def __call__(self, verdict: Verdict) -> None:
        if any(tells(verdict.text, secret.decode("latin-1")) for secret in self._secrets):
            verdict = verdict._replace(text=HIDDEN)
        self._done(verdict)


def tells(text: str, secret: str) -> bool:
    """Whether a part of the secret is in the text; of one that is shorter than TELLING, all of it."""
    size = min(TELLING, len(secret))
    return any(text[at:at + size] in secret for at in range(len(text) - size + 1))
