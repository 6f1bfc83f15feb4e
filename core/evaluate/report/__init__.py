"""A result for people: terminal, Markdown, HTML and plots."""
