"""IPFilter, as far as l4ip uses it: rules as text, tables as its tools list them, and how one is made as wanted.

May import: model, runtime.
"""
