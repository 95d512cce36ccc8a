"""What each protocol by name says and expects. Every file is pure: scripts of :mod:`l4ipd.checks.conversation`."""
