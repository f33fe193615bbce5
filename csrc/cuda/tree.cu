// Which Gaussians the blocks of a list of rays may meet: 32 rays that lie side by side search a tree of boxes.
//
// Rays and Gaussians are sorted along Z curves. 32 Gaussians in a row are a leaf, 32 leaves or nodes in a row a node:
// the tree needs no pointers, and a lane tests one child. It may err on one side only: boxes are widened, and Gaussians
// taken in, by what rounding can do to find_hit, so that no hit is lacking; the renderer decides.
#include "cuda/hits.h"

VOGE_NAMESPACE_BEGIN

constexpr int box_size = 6;
constexpr int most_levels = 7;  // enough for 32^8 Gaussians

template <class T>
__device__ T vabs(T x) {
  return x < 0 ? -x : x;
}
template <class T>
__device__ Vec3<T> load3(const T* x) {
  return {x[0], x[1], x[2]};
}

// Nodes of one level; a leaf is of level 0.
__device__ inline int64_t level_size(int64_t num, int level) {
  for (int i = 0; i <= level; ++i) num = (num + warp_size - 1) / warp_size;
  return num;
}
// Where a level begins among all nodes.
__device__ inline int64_t level_start(int64_t num, int level) {
  int64_t start = 0;
  for (int i = 0; i < level; ++i) start += num = (num + warp_size - 1) / warp_size;
  return start;
}

template <class T>
struct Rounding;
template <>
struct Rounding<float> {
  static constexpr double unit = 6e-8, slack = 2e-6;
};
template <>
struct Rounding<double> {
  static constexpr double unit = 1.2e-16, slack = 4e-15;
};

// A ray as a point of five dimensions: its start, or the point next to the scene's middle where it starts outside, and
// its direction on an octahedron as large as the scene. low, high: bounds of the means of each scene.
template <class T>
__device__ void ray_points(const T* origins, const T* directions, const T* low, const T* high, int64_t geometry_batch,
                           int64_t ray_batch, int64_t rays, int64_t origins_per_scene, T* points) {
  for (int64_t i = thread_index(); i < ray_batch * rays; i += thread_count()) {
    const int64_t r = i / rays, g = geometry_batch == 1 ? 0 : least(r, geometry_batch - 1);
    const Vec3<T> lowest = load3(low + 3 * g), highest = load3(high + 3 * g);
    const Vec3<T> origin = load3(origins + 3 * (origins_per_scene == 1 ? r : i)), d = load3(directions + 3 * i);
    const T radius = most(T(0.5) * length(highest - lowest), T(1e-30));
    const Vec3<T> middle = T(0.5) * (lowest + highest), v = middle - origin;
    const T along = dot(v, d);
    const Vec3<T> place = length(v) > radius && along > 0 ? origin + (along / dot(d, d)) * d : origin;
    const T size = radius / (vabs(d.x) + vabs(d.y) + vabs(d.z));
    T u = d.x * size, w = d.y * size;
    if (d.z < 0) {  // the lower half unfolds outwards
      const T folded = radius - vabs(w);
      w = w < 0 ? vabs(u) - radius : radius - vabs(u);
      u = u < 0 ? -folded : folded;
    }
    T* out = points + 5 * i;
    out[0] = place.x, out[1] = place.y, out[2] = place.z, out[3] = u, out[4] = w;
  }
}
VOGE_KERNEL(ray_points, 128,
            (const T* origins, const T* directions, const T* low, const T* high, int64_t geometry_batch,
             int64_t ray_batch, int64_t rays, int64_t origins_per_scene, T* points),
            (origins, directions, low, high, geometry_batch, ray_batch, rays, origins_per_scene, points))

// Places along a Z curve through each scene's points (num, axes); those that are not valid come last. All axes have the
// same step; those along which the points do not spread get no bits.
template <class T>
__device__ void order_keys(const T* points, const uint8_t* valid, const T* low, const T* high, int64_t scenes,
                           int64_t num, int32_t axes, int64_t* keys) {
  for (int64_t i = thread_index(); i < scenes * num; i += thread_count()) {
    if (valid && !valid[i]) {
      keys[i] = 0x7fffffffffffffff;
      continue;
    }
    const T *lowest = low + i / num * axes, *highest = high + i / num * axes;
    T widest = 0;
    for (int a = 0; a < axes; ++a) widest = most(widest, highest[a] - lowest[a]);
    unsigned used = 0;  // a bit an axis
    for (int a = 0; a < axes; ++a)
      if (highest[a] - lowest[a] > widest / 1024) used |= 1u << a;
    const int bits = __popc(used) > 3 ? 12 : 20;
    const T top = T((1 << bits) - 1), scale = top / widest;
    int64_t key = 0;
    for (int bit = bits - 1; bit >= 0; --bit)
      for (int a = 0; a < axes; ++a)
        if (used >> a & 1) {
          const int32_t step = (int32_t)least(most(T(0), (points[i * axes + a] - lowest[a]) * scale), top);
          key = key << 1 | (step >> bit & 1);
        }
    keys[i] = key;
  }
}
VOGE_KERNEL(order_keys, 128,
            (const T* points, const uint8_t* valid, const T* low, const T* high, int64_t scenes, int64_t num,
             int32_t axes, int64_t* keys),
            (points, valid, low, high, scenes, num, axes, keys))

// Half the box that holds the ellipsoid of the threshold, the least exponent at which find_hit may see a hit, and how
// wrong it may be about the length, over this distance from the ray's origin.
struct Extent {
  Vec3<double> half;
  double exponent, blur;
};
template <class T>
__device__ Extent extent(const Lower3<T>& f, double reach, double distance) {
  const double xx = f.xx, yx = f.yx, zx = f.zx, yy = f.yy, zy = f.zy, zz = f.zz;
  const double x = 1 / xx, y = 1 / yy, z = 1 / zz, wyx = -yx * x * y, wzy = -zy * y * z, wzx = -(zx * x + zy * wyx) * z;
  const Vec3<double> sigma{sqrt(x * x + wyx * wyx + wzx * wzx), sqrt(y * y + wzy * wzy), z};
  const double stiffest = sqrt(xx * xx + yx * yx + zx * zx + yy * yy + zy * zy + zz * zz), widest = length(sigma);
  const double error = reach * Rounding<T>::slack + 16 * Rounding<T>::unit * stiffest * (distance + reach * widest);
  const double outer = reach + error;
  return {outer * sigma, -.5 * outer * outer, error * widest};
}

// The box that holds the lanes' boxes.
template <class T>
__device__ void write_box(const T* mine, T* out) {
  for (int a = 0; a < box_size; ++a) {
    const T bound = a < 3 ? warp_least(mine[a]) : warp_most(mine[a]);
    if (lane_index() == a) out[a] = bound;
  }
}

// The boxes of 32 Gaussians each, and the margins (exponent, blur) of every Gaussian in its new order. A warp makes a
// leaf.
template <class T>
__device__ void leaf_boxes(const T* records, const int64_t* order, const T* origin_low, const T* origin_high,
                           int64_t geometry_batch, int64_t num, int64_t nodes, double threshold, T* margins, T* boxes) {
  const int64_t leaves = level_size(num, 0);
  const Vec3<double> low{(double)origin_low[0], (double)origin_low[1], (double)origin_low[2]},
      high{(double)origin_high[0], (double)origin_high[1], (double)origin_high[2]};
  const Vec3<double> middle = .5 * (low + high);
  const double radius = .5 * length(high - low), reach = sqrt(-2 * log(threshold));
  for (int64_t i = warp_index(); i < geometry_batch * leaves; i += warp_count()) {
    const int64_t g = i / leaves, place = i % leaves * warp_size + lane_index();
    T box[box_size];
    for (int a = 0; a < 3; ++a) box[a] = infinity<T>(), box[3 + a] = -infinity<T>();
    if (place < num) {
      const Record<T>& record = reinterpret_cast<const Record<T>*>(records)[g * num + order[g * num + place]];
      const Vec3<double> mean{(double)record.mean.x, (double)record.mean.y, (double)record.mean.z};
      const Extent e = extent(record.factor, reach, length(mean - middle) + radius);
      const double centre[3] = {mean.x, mean.y, mean.z}, half[3] = {e.half.x, e.half.y, e.half.z};
      for (int a = 0; a < 3; ++a) {
        const double pad = half[a] + 4 * Rounding<T>::unit * (half[a] + fabs(centre[a]));
        box[a] = (T)(centre[a] - pad), box[3 + a] = (T)(centre[a] + pad);
      }
      margins[2 * (g * num + place)] = (T)(e.exponent * (1 + 4 * Rounding<T>::unit));
      margins[2 * (g * num + place) + 1] = (T)e.blur;
    }
    write_box(box, boxes + box_size * (g * nodes + i % leaves));
  }
}
VOGE_KERNEL(leaf_boxes, 128,
            (const T* records, const int64_t* order, const T* origin_low, const T* origin_high, int64_t geometry_batch,
             int64_t num, int64_t nodes, double threshold, T* margins, T* boxes),
            (records, order, origin_low, origin_high, geometry_batch, num, nodes, threshold, margins, boxes))

// The boxes of one level above the leaves. A warp makes a node.
template <class T>
__device__ void node_boxes(int64_t geometry_batch, int64_t num, int64_t nodes, int32_t level, T* boxes) {
  const int64_t size = level_size(num, level), children = level_size(num, level - 1);
  for (int64_t i = warp_index(); i < geometry_batch * size; i += warp_count()) {
    T* tree = boxes + box_size * nodes * (i / size);
    const int64_t node = i % size, child = node * warp_size + lane_index();
    T box[box_size];
    for (int a = 0; a < 3; ++a) box[a] = infinity<T>(), box[3 + a] = -infinity<T>();
    if (child < children)
      for (int a = 0; a < box_size; ++a) box[a] = tree[box_size * (level_start(num, level - 1) + child) + a];
    write_box(box, tree + box_size * (level_start(num, level) + node));
  }
}
VOGE_KERNEL(node_boxes, 128, (int64_t geometry_batch, int64_t num, int64_t nodes, int32_t level, T* boxes),
            (geometry_batch, num, nodes, level, boxes))

// 1 / x, finite: along an axis on which it does not move a ray is inside for ever or never.
template <class T>
__device__ T steep(T x) {
  return 1 / (vabs(x) < T(1e-30) ? T(1e-30) : x);
}

// Whether the ray meets the box at a length that counts.
template <class T>
__device__ bool meets(const T* box, const Vec3<T>& origin, const Vec3<T>& inverse, T near) {
  const T x0 = (box[0] - origin.x) * inverse.x, x1 = (box[3] - origin.x) * inverse.x;
  const T y0 = (box[1] - origin.y) * inverse.y, y1 = (box[4] - origin.y) * inverse.y;
  const T z0 = (box[2] - origin.z) * inverse.z, z1 = (box[5] - origin.z) * inverse.z;
  const T enter = most(most(least(x0, x1), least(y0, y1)), most(T(0), least(z0, z1)));
  const T leave = least(least(most(x0, x1), most(y0, y1)), most(z0, z1));
  const T shrink = T(1 - Rounding<T>::slack);
  return enter * shrink <= leave && leave >= near * shrink;
}

// The Gaussians that each block's rays may meet, in the order of the tree: how many, where `counts` is given, and
// which, where `list` is, from starts[block] on and below `capacity`. A warp searches for a block, and keeps for every
// level the children of one node that wait: lane i which ones and whose they are, of level i.
template <class T>
__device__ void search(const T* records, const int64_t* order, const T* margins, const T* boxes, const T* origins,
                       const T* directions, const uint8_t* valid, const int64_t* ray_order, int64_t batch, int64_t num,
                       int64_t nodes, int64_t rays, int64_t geometry_batch, int64_t ray_batch,
                       int64_t origins_per_scene, double near, const int64_t* starts, int64_t capacity, int64_t* counts,
                       int32_t* list) {
  VOGE_SHARED(Vec3<T>, origin, [warp_size]);
  VOGE_SHARED(Vec3<T>, direction, [warp_size]);
  VOGE_SHARED(Vec3<T>, inverse, [warp_size]);
  VOGE_SHARED(unsigned, meeting, [most_levels][warp_size]);  // rays that meet the children, a bit a ray
  const int lane = lane_index();
  const int64_t blocks_per_scene = (rays + block_rays - 1) / block_rays;
  const Rays<T> scene{origins,           directions,       valid, ray_order, rays, ray_batch,
                      origins_per_scene, blocks_per_scene, 1,     1};
  int top = 0;
  while (level_size(num, top) > warp_size) ++top;
  for (int64_t block = warp_index(); block < batch * blocks_per_scene; block += warp_count()) {
    const int64_t g = geometry_batch == 1 ? 0 : block / blocks_per_scene;
    const Ray<T> ray = load_ray(scene, block, lane);
    __syncwarp();
    origin[lane] = ray.origin, direction[lane] = ray.direction;
    inverse[lane] = {steep(ray.direction.x), steep(ray.direction.y), steep(ray.direction.z)};
    int64_t parent = 0;
    unsigned waiting = 0;
    auto open = [&](int level, int64_t node, unsigned some_rays) {
      const int64_t child = node * warp_size + lane;
      unsigned met = 0;
      __syncwarp();
      if (child < level_size(num, level)) {
        T box[box_size];
        for (int a = 0; a < box_size; ++a) box[a] = boxes[box_size * (g * nodes + level_start(num, level) + child) + a];
        for (unsigned left = some_rays; left; left &= left - 1) {
          const int i = __ffs((int)left) - 1;
          if (meets(box, origin[i], inverse[i], T(near))) met |= 1u << i;
        }
      }
      meeting[level][lane] = met;
      const unsigned children = ballot(met != 0);
      if (lane == level) parent = node, waiting = children;
      __syncwarp();
    };
    int64_t end = starts ? starts[block] : 0;
    const int64_t start = end;
    int level = top;
    open(top, 0, ballot(ray.alive));
    while (level <= top) {
      const unsigned children = broadcast(waiting, level);
      if (!children) {
        ++level;
        continue;
      }
      const int child = __ffs((int)children) - 1;
      if (lane == level) waiting &= waiting - 1;
      const int64_t node = broadcast(parent, level) * warp_size + child;
      const unsigned some_rays = meeting[level][child];
      if (level > 0) {
        open(--level, node, some_rays);
        continue;
      }
      const int64_t at = g * num + node * warp_size + lane;
      bool hit = false;
      int32_t gaussian = 0;
      if (node * warp_size + lane < num) {
        gaussian = (int32_t)order[at];
        const Record<T> x = reinterpret_cast<const Record<T>*>(records)[g * num + gaussian];
        const T exponent = margins[2 * at], blur = margins[2 * at + 1];
        for (unsigned left = some_rays; left && !hit; left &= left - 1) {
          const int i = __ffs((int)left) - 1;
          const Hit<T> h = find_hit(x.factor, transpose_times(x.factor, x.mean - origin[i]), direction[i]);
          hit = h.exponent >= exponent && h.length + blur > T(near);
        }
      }
      const unsigned hits = ballot(hit);
      const int64_t to = end + rank_among(hits);
      if (hit && list && to < capacity) list[to] = gaussian;
      end += __popc(hits);
    }
    if (counts && lane == 0) counts[block] = end - start;
  }
}
VOGE_KERNEL(search, 32,
            (const T* records, const int64_t* order, const T* margins, const T* boxes, const T* origins,
             const T* directions, const uint8_t* valid, const int64_t* ray_order, int64_t batch, int64_t num,
             int64_t nodes, int64_t rays, int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene,
             double near, const int64_t* starts, int64_t capacity, int64_t* counts, int32_t* list),
            (records, order, margins, boxes, origins, directions, valid, ray_order, batch, num, nodes, rays,
             geometry_batch, ray_batch, origins_per_scene, near, starts, capacity, counts, list))

VOGE_NAMESPACE_END
