"""How fast the operations are and how much memory they take, beside other ways to compute the same.

:func:`nonlocalnn.benchmark.ops.run` measures blocks and :func:`nonlocalnn.benchmark.models.run` whole
networks and the reading of clips; :mod:`nonlocalnn.benchmark.report` and ``models_report`` make tables and a
plot of it; the command is ``nonlocalnn bench``. What does not equal the reference is refused, not timed.
"""
