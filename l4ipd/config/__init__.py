"""The configuration: from YAML to the frozen values of the model, every error with its line; and what it will cost.

May import: checks, model, runtime.
"""
