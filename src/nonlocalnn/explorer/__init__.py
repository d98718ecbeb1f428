"""Pages, pictures and a server that show what a network attends to."""

from nonlocalnn.affinity.pictures import choose_queries
from nonlocalnn.explorer.animation import write_animation
from nonlocalnn.explorer.pictures import draw_affinity, draw_confusion

__all__ = ["choose_queries", "draw_affinity", "draw_confusion", "write_animation"]
