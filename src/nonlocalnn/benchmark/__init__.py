"""How fast the operations are and how much memory they take, beside other ways to compute the same.

:func:`nonlocalnn.benchmark.ops.run` measures blocks, :mod:`nonlocalnn.benchmark.report` makes tables and a
plot of it; the command is ``nonlocalnn bench ops``. A candidate that does not equal the reference in values
and gradients is refused, not timed.
"""
