"""The state of a run on disk: written while it trains, read to go on."""
