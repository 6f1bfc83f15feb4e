"""The promises of the statistics, held against invented data whose truth is known."""
