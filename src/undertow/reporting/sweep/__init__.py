"""The page of training runs side by side."""
