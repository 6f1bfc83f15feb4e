"""Commands that make speech or text: ``say`` and ``text``."""
