"""The command line: one process a job, exit codes, multiruns, and the small commands."""
