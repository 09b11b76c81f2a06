"""What moved between two checkpoints, pair by pair, and where the probability went."""
