"""Volumes: CT, MR and microscopy, from the files that people have of them, with their millimetres."""
