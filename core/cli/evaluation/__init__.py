"""The command ``wishbone evaluate``."""
