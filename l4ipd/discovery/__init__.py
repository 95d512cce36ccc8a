"""Members that come and go: files that are read again when they change, and names in the DNS that are asked again.

May import: config, model, runtime.
"""
