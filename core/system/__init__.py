"""From a configuration to a system that is built, loaded and checked."""
