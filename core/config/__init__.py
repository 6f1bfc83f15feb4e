"""A YAML file to a dictionary, and a dictionary to checked dataclasses."""
