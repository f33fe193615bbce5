"""Fitting by analysis and synthesis: pose, shape, texture and order of occlusion from pictures."""

from voge.fit.features import backbone
from voge.fit.pose import STAGES, PoseResult, pose
from voge.fit.search import Stage

__all__ = ["STAGES", "PoseResult", "Stage", "backbone", "pose"]
