"""Bytes that come in pieces, cut into lines of bounded length."""

from __future__ import annotations

LONGEST = 1024                                      # bytes; the longest line of an IPFilter tool has about 300


class Lines:
    """Cuts what comes in pieces into lines. One that is longer than ``longest`` bytes is dropped and counted."""

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest
        self.dropped = 0
        self._rest = b""
        self._skipping = False                      # inside a line that is too long

    @property
    def inside(self) -> bool:
        """What has come so far does not end with a line's end."""
        return bool(self._rest) or self._skipping

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are complete now."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if lines and self._skipping:
            self._skipping = False
            del lines[0]
        kept = [line for line in lines if len(line) <= self.longest]
        self.dropped += len(lines) - len(kept)
        if len(self._rest) > self.longest:
            self._rest = b""
            self.dropped += not self._skipping
            self._skipping = True
        return kept
