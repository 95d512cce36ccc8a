"""The network: sockets where clients connect by the rules, and what passes between them and the members.

May import: model, syntax, nat, kernel, runtime.
"""
