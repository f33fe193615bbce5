"""Fitting by analysis and synthesis: pose, shape, texture and order of occlusion from pictures."""

from voge.fit.features import backbone
from voge.fit.occlusion import OcclusionResult, occlusion
from voge.fit.pose import STAGES, PoseResult, pose
from voge.fit.search import Stage
from voge.fit.shape import ShapeResult, shape
from voge.fit.texture import TextureResult, texture

__all__ = [
    "STAGES",
    "OcclusionResult",
    "PoseResult",
    "ShapeResult",
    "Stage",
    "TextureResult",
    "backbone",
    "occlusion",
    "pose",
    "shape",
    "texture",
]
