"""Objectives that train one model to do what another does."""
