"""NAT: rules as ipnat reads and prints them, and the table that gives each connection to a member and remembers it.

May import: syntax.
"""
