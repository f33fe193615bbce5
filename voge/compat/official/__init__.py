"""The official VoGE package's names, calls and weighting (github.com/Angtian/VoGE, 0.4.1), on this package's renderer.

Scripts written for it give the same pictures: `from VoGE.Renderer import ...` becomes `from voge.compat.official
import ...`.

Its law, with the `sigmas` a user gives (precisions, unless inverse_sigma): density exp(-2 (x - M)' sigmas (x - M)),
so the precision of this package is P = 4 sigmas; weights W = A exp(-tau sum_k A_k Phi) / exp(-1/2) with A = exp(q),
which is this package's hermite rule at one point, divided by absorptivity tau and by exp(-1/2). Images are clipped
at 1.

What differs, because it was wrong there: bins never overflow, and `max_point_per_bin` has no effect; Gaussians
behind the camera are not hit; empty slots weigh 0 and have index -1, length and act 1e10, and nothing edits them; R,
T, focal and principal hold for one call and None means the cameras' own; settings without effect warn; everything
works in float64, on the CPU, in batches and with gradients. Of its internals, `rasterize_coarse` and
`ray_tracing_fine` have no equivalent.
"""

from voge.compat.official.converters import (
    cuboid_gauss,
    cuboid_mesh,
    fixed_pointcloud_converter,
    load_goff,
    load_off,
    naive_point_cloud_converter,
    naive_vertices_converter,
    normal_mesh_converter,
    pre_process_pascal,
    pytorch3d2gaussian,
    save_goff,
    save_off,
    to_torch,
)
from voge.compat.official.renderer import (
    DeformedGaussianMeshes,
    Fragments,
    GaussianMeshes,
    GaussianMeshesNaive,
    GaussianRenderer,
    GaussianRenderSettings,
    get_silhouette,
    interpolate_attr,
    sample_features,
    scatter_max_weight,
    to_colored_background,
    to_white_background,
)
from voge.compat.official.tracing import (
    aggregation,
    assign2weight,
    expend_sigma,
    find_farest_k,
    find_nearest_k,
    get_cross_activation,
    get_ray_camera_space,
    merge_final,
    ray_trace_voge_ray,
    ray_tracing,
)
from voge.compat.official.utils import Batchifier, DataParallelBatchifier, ind_fill, ind_sel, rotation_theta

__all__ = [
    "Batchifier",
    "DataParallelBatchifier",
    "DeformedGaussianMeshes",
    "Fragments",
    "GaussianMeshes",
    "GaussianMeshesNaive",
    "GaussianRenderSettings",
    "GaussianRenderer",
    "aggregation",
    "assign2weight",
    "cuboid_gauss",
    "cuboid_mesh",
    "expend_sigma",
    "find_farest_k",
    "find_nearest_k",
    "fixed_pointcloud_converter",
    "get_cross_activation",
    "get_ray_camera_space",
    "get_silhouette",
    "ind_fill",
    "ind_sel",
    "interpolate_attr",
    "load_goff",
    "load_off",
    "merge_final",
    "naive_point_cloud_converter",
    "naive_vertices_converter",
    "normal_mesh_converter",
    "pre_process_pascal",
    "pytorch3d2gaussian",
    "ray_trace_voge_ray",
    "ray_tracing",
    "rotation_theta",
    "sample_features",
    "save_goff",
    "save_off",
    "scatter_max_weight",
    "to_colored_background",
    "to_torch",
    "to_white_background",
]
