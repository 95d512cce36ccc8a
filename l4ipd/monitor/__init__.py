"""One endpoint's life: when it is probed, what an outcome means for its health, and who has to hear of it.

May import: checks, model, runtime.
"""
