"""What generated crystals are judged by, stability apart: crystals in, with ``None`` where none was parsed."""
