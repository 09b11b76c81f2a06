"""Results as tables on the terminal, and progress."""
