"""Why one pair goes where it goes: its tokens, its layers, and the other pairs that pull it down or hold it up."""
