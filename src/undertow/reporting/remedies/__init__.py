"""The page of simulated arms: what each remedy would do."""
