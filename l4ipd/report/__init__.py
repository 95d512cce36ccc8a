"""What people and programs are told: rows and lines on endpoints and on ourselves, history, trends, the
notify program.

May import: config, daemon, events, ipfilter, model, monitor, overrides, readiness, runtime.
"""
