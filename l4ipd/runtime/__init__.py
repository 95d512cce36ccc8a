"""What any Unix daemon needs and no load balancer in particular: the loop, child processes, files, the log.

Nothing here knows what a member, a check or a rule is.

May import: model.
"""
