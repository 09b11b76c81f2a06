"""The forecast: a training run simulated before it is trained, pair by pair, in nats.

second moments at the start → gradient features of every response → the recurrence → a look at the simulated end
"""
