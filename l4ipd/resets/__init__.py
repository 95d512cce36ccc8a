"""Sensing resets: where they come from, what one means, and whether we would hear of any.

May import: checks, ipfilter, model, runtime.
"""
