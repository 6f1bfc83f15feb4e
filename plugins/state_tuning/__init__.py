"""State tuning: the state a frozen backbone begins with is all that is learned."""
