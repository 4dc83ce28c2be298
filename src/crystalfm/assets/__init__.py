"""Named data sets and weights: where they come from, their licences and checksums."""
