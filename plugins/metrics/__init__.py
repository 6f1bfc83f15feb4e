"""Built-in metrics: word errors, predicted quality, voice likeness, speed and losses."""
