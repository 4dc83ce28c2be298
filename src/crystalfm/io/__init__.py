"""Files that are whole or absent: atomic writes, locks, content hashes."""
