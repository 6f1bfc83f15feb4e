"""A mixture of experts: feed-forward parts of which each position uses a few."""
