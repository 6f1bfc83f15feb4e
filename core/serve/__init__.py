"""The server ``wishbone serve``: systems behind OpenAI's speech interface."""
