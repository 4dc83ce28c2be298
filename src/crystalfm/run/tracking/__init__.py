"""What is written and shown while a run works: loggers, progress, quiet libraries."""
