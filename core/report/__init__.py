"""Reports of every command: charts, tables, HTML pages, JSON files and progress."""
