"""How fast the operations are and how much memory they take, beside other ways to compute the same.

``python -m benchmarks`` in a clone measures one subject: :func:`benchmarks.ops.run` blocks,
:func:`benchmarks.models.run` whole networks and the reading of clips, :func:`benchmarks.maps.run` rows of
large maps, :func:`benchmarks.ranks.run` positions split over processes, :func:`benchmarks.training.run`
trainings on processes. What does not equal the reference is refused, not timed.
"""
