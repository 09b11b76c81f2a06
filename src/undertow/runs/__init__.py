"""What every long command shares: the folder of a run, reading and tokenising first, parts, texts, rows set aside."""
