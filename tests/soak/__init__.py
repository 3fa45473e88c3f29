"""A server under mixed requests of many clients for a long time: ``make soak``."""
