"""APIs of other packages, run by this one: scripts change their import line only."""
