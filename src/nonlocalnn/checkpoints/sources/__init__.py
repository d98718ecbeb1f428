"""Other code bases whose checkpoints are read: a file each, its key names and what differs."""
