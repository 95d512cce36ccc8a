"""Certificates of ours that checks show to members, and that end soon or have ended: a warning each."""

from __future__ import annotations

import time
from collections.abc import Iterator

from l4ipd.checks.certificate import first, not_after
from l4ipd.model import Config
from l4ipd.runtime import regular_file

SIZE_LIMIT, SOON = 1 << 20, 14 * 86400.0            # bytes of a file that are looked at; seconds


def expiring(config: Config) -> list[str]:
    """Everything of that kind, each file once. That a file cannot be read is an error, and found elsewhere."""
    now, found = time.time(), []
    for path, where in dict(reversed(list(_named(config)))).items():
        try:
            end = not_after(first(regular_file.read(path, SIZE_LIMIT)))
        except OSError:
            continue
        if end is not None and end - now < SOON:
            date = time.strftime("%Y-%m-%d", time.gmtime(end))
            found.append(f"{where}: {path}: this certificate {'expires' if end > now else 'has expired'} on {date}")
    return found


def _named(config: Config) -> Iterator[tuple[str, str]]:
    """The file, and where it is named."""
    for cluster in config.clusters:
        for service in cluster.services:
            yield from ((check.cert, f"{cluster.name}/{service.name}: cert") for check in service.checks if check.cert)
