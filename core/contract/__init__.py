"""Everything a plug-in imports: contracts, errors, tags and the atomic write."""
