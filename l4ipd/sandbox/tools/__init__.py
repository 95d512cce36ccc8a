"""The commands ipnat, ipf, ipfstat and ipmon, with the options, messages and exit statuses of the real ones.

May import: syntax, nat, filter, kernel, version.
"""
