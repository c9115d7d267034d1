"""NumPyro, BlackJAX and nutpie on the same targets. Imports nothing of ours, as their users would not."""
