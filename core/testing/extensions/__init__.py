"""Suites of the parts around a system, one for each contract in ``contract/extensions``."""
