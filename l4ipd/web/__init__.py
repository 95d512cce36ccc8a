"""The HTTP side: a small server, the status page, metrics and JSON. Nothing of it is imported unless it is configured.

May import: checks, daemon, events, ipfilter, model, monitor, report, resets, runtime.
"""
