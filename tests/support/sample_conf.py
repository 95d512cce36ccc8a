"""etc/l4ip.conf.sample, and what it shows switched on."""

from __future__ import annotations

import re

from support import ROOT

SAMPLE = (ROOT / "etc/l4ip.conf.sample").read_text()


def switched_on(text: str) -> str:
    """The sample with every setting that it shows: those lines begin with # and no blank."""
    return re.sub(r"^( *)#(?=[^ #\n])", r"\1", text, flags=re.MULTILINE)
