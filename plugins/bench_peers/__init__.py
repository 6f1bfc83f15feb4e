"""Other projects' programs, run beside ours by ``wishbone bench``."""
