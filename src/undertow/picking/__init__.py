"""From many candidates for a prompt, the pair to train on."""
