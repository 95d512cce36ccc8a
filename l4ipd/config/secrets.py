"""Secrets that stand in files of their own, ``{file: FILE}``: read with the configuration, and put into its checks.

What is in them is in no message. Of a header or a password the line break at the end does not count; data and texts to
be sent are taken as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from l4ipd.config.values import TEXT_MAX, header_value
from l4ipd.model import Check, Config, Secret
from l4ipd.runtime import regular_file

Problem = tuple[tuple[str | int, ...], str]         # where, and why


def filled(config: Config) -> tuple[Config, list[Problem]]:
    """The configuration with all secrets in it, and what is wrong with their files."""
    problems: list[Problem] = []
    clusters = []
    for cluster in config.clusters:
        services = []
        for service in cluster.services:
            place = ("clusters", cluster.name, "services", service.name, "check")
            places = [(*place, number) if len(service.checks) > 1 else place
                      for number in range(1, len(service.checks) + 1)]
            checks = tuple(_filled(check, where, problems) if check.secrets else check
                           for check, where in zip(service.checks, places, strict=True))
            services.append(service if checks == service.checks else replace(service, checks=checks))
        clusters.append(cluster if tuple(services) == cluster.services else replace(cluster, services=tuple(services)))
    return replace(config, clusters=tuple(clusters)), problems


def _filled(check: Check, place: tuple[str | int, ...], problems: list[Problem]) -> Check:
    for secret in check.secrets:
        try:
            check = _with(check, secret, _read(secret))
        except ValueError as error:
            problems.append(((*place, *secret.key), f"{secret.file}: {error}"))
    return check


def _read(secret: Secret) -> bytes:
    try:
        content = regular_file.read(secret.file, TEXT_MAX)
    except OSError as error:
        words = error.strerror or str(error)
        raise ValueError(words if isinstance(error, regular_file.Irregular) else f"cannot be read: {words.lower()}"
                         ) from None
    if secret.key[0] in ("headers", "password"):
        content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not content:
        raise ValueError("is empty")
    if len(content) > TEXT_MAX:
        raise ValueError(f"is longer than {TEXT_MAX} bytes")
    return content


def _with(check: Check, secret: Secret, content: bytes) -> Check:
    """The check with this value in its place."""
    key, *rest = secret.key
    if key == "headers":
        value = header_value(content.decode("latin-1"))
        return replace(check, headers=tuple((name, value if name == rest[0] else other)
                                            for name, other in check.headers))
    if key == "dialog":
        return replace(check, dialog=tuple(replace(step, text=content) if number == rest[0] else step
                                           for number, step in enumerate(check.dialog, 1)))
    value_of: dict[str, Any] = {str(key): content}
    return replace(check, **value_of)
