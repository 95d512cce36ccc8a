"""What people and programs are told: rows and lines on endpoints and on ourselves, history, the notify program.

May import: everything below the daemon, and the daemon itself, to read.
"""
