"""Looking at what a network attends to."""

from nonlocalnn.explorer.pictures import choose_queries, draw_ablation, draw_affinity, draw_confusion

__all__ = ["choose_queries", "draw_ablation", "draw_affinity", "draw_confusion"]
