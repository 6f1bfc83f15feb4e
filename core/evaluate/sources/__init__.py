"""Sources of an A/B's recordings: systems in several manners, folders, servers; who speaks when."""
