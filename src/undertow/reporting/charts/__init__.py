"""Charts: pure functions of numbers, one file for what belongs together; binned and sampled before they draw."""
