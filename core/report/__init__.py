"""Charts and pictures that every report shares."""
