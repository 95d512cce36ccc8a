"""The packet filter: rules as ipf reads and ipfstat prints them, who counts and logs a packet, and the log itself.

May import: syntax.
"""
