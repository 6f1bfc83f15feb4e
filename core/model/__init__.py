"""The language model of speech: tables, backbone and head, and how codes are drawn."""
