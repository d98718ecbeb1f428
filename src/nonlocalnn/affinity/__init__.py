"""What each position of a running model attends to."""

from nonlocalnn.affinity.capture import capture_affinity
from nonlocalnn.affinity.doctor import examine
from nonlocalnn.affinity.effects import EffectMap, class_effects
from nonlocalnn.affinity.grids import PositionGrid
from nonlocalnn.affinity.maps import AffinityMap
from nonlocalnn.affinity.summary import AffinitySummary, summarise
from nonlocalnn.affinity.verdicts import BlockFindings, Change, Examination

__all__ = [
    "AffinityMap",
    "AffinitySummary",
    "BlockFindings",
    "Change",
    "EffectMap",
    "Examination",
    "PositionGrid",
    "capture_affinity",
    "class_effects",
    "examine",
    "summarise",
]
