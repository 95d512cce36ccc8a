"""One endpoint's life: when it is probed, what an outcome means for its health, and who has to hear of it.

``checker`` and ``pace`` say when, ``monitor`` and ``health`` what it means; ``refusals`` and ``doubt`` are about what
clients meet, ``unprobed`` and ``reachability`` about the gateway's own trouble; ``schedule`` is what all of them share.
May import: checks, model, runtime.
"""
