"""Many processes: ranks, what they agree on, and the hardware they run on."""
