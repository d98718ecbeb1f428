"""Sequences: numbers of one channel or several, step by step, from the files that people have of them."""
