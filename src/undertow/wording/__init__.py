"""How numbers, names, losses and the texts of data are written, for terminal and page alike."""
