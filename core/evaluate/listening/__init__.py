"""Listening tests: a page that people hear and judge, collecting answers, analysing them."""
