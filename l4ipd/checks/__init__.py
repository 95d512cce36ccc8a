"""Checks as data, and the probes that carry them out: one machine for every transport, one verdict for each probe.

May import: model, runtime.
"""
