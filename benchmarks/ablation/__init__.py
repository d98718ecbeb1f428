"""Does a block help? Networks with blocks and without, trained alike over several seeds."""
