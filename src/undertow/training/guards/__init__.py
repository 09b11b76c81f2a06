"""Guards: conditions on tracked values, and what a run does when they hold."""
