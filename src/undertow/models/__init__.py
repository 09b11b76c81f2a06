"""Loading models, and the one fast forward pass."""
