"""What the rule files of ipf and ipnat have in common: tokens, addresses, ports, and the names of services and hosts.

May import: nothing.
"""
