"""From items to differences with intervals and verdicts."""
