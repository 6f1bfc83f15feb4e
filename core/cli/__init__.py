"""The command ``wishbone``: one file a command."""
