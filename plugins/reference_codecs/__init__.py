"""Other codecs, heard beside ours by ``wishbone evaluate codec``."""
