"""What tests stand on: a sandbox as the kernel, members, a gateway with its l4ipd, random lives, and where all is."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent    # of the checkout, or of the unpacked source archive
TESTS = ROOT / "tests"
SAMPLES = TESTS / "samples"
