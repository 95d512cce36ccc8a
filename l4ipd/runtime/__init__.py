"""What any Unix daemon needs and no load balancer in particular: the loop, child processes, files, the log.

Stands on nothing of ours. Nothing here knows what a member, a check or a rule is.
"""
