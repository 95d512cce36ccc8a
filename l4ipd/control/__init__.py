"""The control socket on both ends: the server and its commands, and l4ipctl.

The client imports nothing that is slow to import.

May import: checks, config, daemon, events, ipfilter, model, monitor, readiness, report, runtime.
"""
