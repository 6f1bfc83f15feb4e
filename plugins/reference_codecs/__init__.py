"""Other codecs, compared with those of Wishbone by ``wishbone evaluate codec``."""
