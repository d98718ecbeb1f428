"""A network that is there, changed: blocks put in and taken out, others' blocks taken over, norms folded."""
