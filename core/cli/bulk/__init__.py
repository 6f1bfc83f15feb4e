"""Commands that many processes share."""
