"""l4ip: health checks for the servers behind an IPFilter gateway, and the rdr rules that follow from them."""

__version__ = "1.1.0"
