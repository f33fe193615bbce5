#include "cpu/bvh.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <vector>

#define VOGE_ISA plain
#include "cpu/pool.h"
#include "cpu/simd.h"

namespace voge {
namespace {

using namespace plain;

typedef float Corner __attribute__((vector_size(16)));
#if defined(__SSE2__)
Corner lower(Corner a, Corner b) { return (Corner)_mm_min_ps((__m128)a, (__m128)b); }
Corner upper(Corner a, Corner b) { return (Corner)_mm_max_ps((__m128)a, (__m128)b); }
#else
Corner lower(Corner a, Corner b) { return a < b ? a : b; }
Corner upper(Corner a, Corner b) { return a > b ? a : b; }
#endif

struct Box {
  Corner low{INFINITY, INFINITY, INFINITY, INFINITY}, high{-INFINITY, -INFINITY, -INFINITY, -INFINITY};

  void add(Corner l, Corner h) { low = lower(low, l), high = upper(high, h); }
  double area() const {
    const Corner d = high - low;
    return d[0] < 0 ? 0 : (double)d[0] * d[1] + (double)d[1] * d[2] + (double)d[2] * d[0];
  }
};

// Fourth numbers hold the index, 23 bits each, as mantissas: other bits could be numbers that are slow to add.
struct Item {
  Corner low, high;
};

void put_index(BuildBox& box, uint32_t index) {
  const uint32_t one = 0x3f800000, low = one | (index & 0x7fffff), high = one | index >> 23;
  memcpy(box.low + 3, &low, 4), memcpy(box.high + 3, &high, 4);
}

int32_t index_of(const BuildBox& box) {
  uint32_t low, high;
  memcpy(&low, box.low + 3, 4), memcpy(&high, box.high + 3, 4);
  return (int32_t)((low & 0x7fffff) | (high & 0xff) << 23);
}

Corner twice_centre(const Item& x) { return x.low + x.high; }

struct Range {
  int64_t begin, end;
  Box box, centres;
  int64_t size() const { return end - begin; }
};

struct Tree : Topology {
  std::vector<int32_t> own_children, own_order, own_begin;
  std::atomic<int> references{1};
};

// The part of a tree under one range. Parts are built side by side and joined in order.
struct Part {
  std::vector<int32_t> children;
  std::vector<int64_t> leaves;  // begin and end of each
  int depth = 0;
};

class Builder {
 public:
  Builder(Item* items, int wide) : items_(items), wide_(wide) {}

  Range range(int64_t begin, int64_t end) const {
    Range r{begin, end, {}, {}};
    for (int64_t i = begin; i < end; ++i) {
      const Corner c = twice_centre(items_[i]);
      r.box.add(items_[i].low, items_[i].high), r.centres.add(c, c);
    }
    return r;
  }

  // Cuts a range in two where the surfaces times the leaves they need are least.
  void split(const Range& r, Range& left, Range& right) const {
    constexpr int bins = 16;
    const int64_t n = r.size();
    Corner scale = r.centres.high - r.centres.low;
    for (int a = 0; a < 3; ++a) scale[a] = scale[a] > 0 ? bins * (1 - 1e-6f) / scale[a] : 0;
    scale[3] = 0;
    Box boxes[3][bins];
    int64_t counts[3][bins] = {};
    auto bin = [&](const Item& x, int axis) {
      const int b = (int)((twice_centre(x)[axis] - r.centres.low[axis]) * scale[axis]);
      return b < 0 ? 0 : b >= bins ? bins - 1 : b;
    };
    for (int64_t i = r.begin; i < r.end; ++i) {
      const Item& x = items_[i];
      for (int a = 0; a < 3; ++a) {
        const int b = bin(x, a);
        boxes[a][b].add(x.low, x.high), ++counts[a][b];
      }
    }
    double best = INFINITY;
    int axis = -1, place = 0;
    for (int a = 0; a < 3; ++a) {
      if (!(scale[a] > 0) || !(scale[a] < INFINITY)) continue;
      double after[bins];
      Box b;
      int64_t behind = 0;
      for (int i = bins - 1; i > 0; --i) {
        b.add(boxes[a][i].low, boxes[a][i].high), behind += counts[a][i];
        after[i] = b.area() * ((behind + wide_ - 1) / wide_);
      }
      b = Box(), behind = 0;
      for (int i = 1; i < bins; ++i) {
        b.add(boxes[a][i - 1].low, boxes[a][i - 1].high), behind += counts[a][i - 1];
        if (behind == 0 || behind == n) continue;
        const double cost = b.area() * ((behind + wide_ - 1) / wide_) + after[i];
        if (cost < best) best = cost, axis = a, place = i;
      }
    }
    if (axis < 0) {  // all centres coincide
      left = range(r.begin, r.begin + n / 2), right = range(r.begin + n / 2, r.end);
      return;
    }
    left = {r.begin, r.begin, {}, {}}, right = {r.end, r.end, {}, {}};
    while (left.end < right.begin) {
      const Item x = items_[left.end];
      const Corner c = twice_centre(x);
      if (bin(x, axis) < place) {
        left.box.add(x.low, x.high), left.centres.add(c, c), ++left.end;
      } else {
        right.box.add(x.low, x.high), right.centres.add(c, c);
        items_[left.end] = items_[--right.begin], items_[right.begin] = x;
      }
    }
  }

  // The children of a node: the range cut again and again where its surface is largest.
  int spread(const Range& whole, Range* out) const {
    int n = 1;
    out[0] = whole;
    while (n < wide_) {
      int widest = -1;
      double area = -1;
      for (int i = 0; i < n; ++i)
        if (out[i].size() > wide_ && out[i].box.area() > area) area = out[i].box.area(), widest = i;
      if (widest < 0) break;
      const Range r = out[widest];
      split(r, out[widest], out[n]);
      ++n;
    }
    return n;
  }

  // Appends the node of a range and all below it; its number.
  int32_t node(const Range& r, int depth, Part& part) const {
    const int32_t number = (int32_t)(part.children.size() / wide_);
    part.children.resize(part.children.size() + wide_, Topology::no_child);
    part.depth = depth > part.depth ? depth : part.depth;
    Range children[64];
    const int n = spread(r, children);
    for (int i = 0; i < n; ++i) {
      const int32_t child = children[i].size() <= wide_ ? leaf(children[i], part) : node(children[i], depth + 1, part);
      part.children[number * wide_ + i] = child;
    }
    return number;
  }

  int32_t leaf(const Range& r, Part& part) const {
    part.leaves.push_back(r.begin), part.leaves.push_back(r.end);
    return ~(int32_t)(part.leaves.size() / 2 - 1);
  }

 private:
  Item* items_;
  int wide_;
};

Topology* finish(Tree* tree, int64_t num, int wide) {
  tree->num = num, tree->wide = wide, tree->cost = 0;
  tree->nodes = (int64_t)tree->own_children.size() / wide, tree->leaves = (int64_t)tree->own_begin.size() - 1;
  tree->children = tree->own_children.data();
  tree->order = tree->own_order.data(), tree->leaf_begin = tree->own_begin.data();
  return tree;
}

std::mutex cache_mutex;
std::vector<Tree*>& cache() {
  static std::vector<Tree*>& trees = *new std::vector<Tree*>;  // never destroyed: calls may outlive main
  return trees;
}
constexpr size_t most_trees = 16;
constexpr int64_t most_gaussians = int64_t{1} << 23;

}  // namespace

Topology* build_topology(BuildBox* boxes, int64_t num, int wide, int threads) {
  static_assert(sizeof(BuildBox) == sizeof(Item), "an item takes the place of its box");
  Item* items = reinterpret_cast<Item*>(boxes);
  for (int64_t i = 0; i < num; ++i) put_index(boxes[i], (uint32_t)i);
  const Builder builder(items, wide);
  Tree* tree = new Tree;
  // The top: ranges are cut in turn until they are small enough to be built side by side.
  constexpr int64_t enough = 1 << 14;
  struct Pending {
    Range range;
    int32_t parent_slot;
    int depth;
  };
  std::vector<Pending> waiting{{builder.range(0, num), -1, 1}}, small;
  std::vector<int32_t>& children = tree->own_children;
  for (size_t i = 0; i < waiting.size(); ++i) {
    const Pending p = waiting[i];
    if (p.range.size() <= enough) {
      small.push_back(p);
      continue;
    }
    const int32_t number = (int32_t)(children.size() / wide);
    if (p.parent_slot >= 0) children[p.parent_slot] = number;
    children.resize(children.size() + wide, Topology::no_child);
    Range parts[64];
    const int n = builder.spread(p.range, parts);
    for (int j = 0; j < n; ++j) waiting.push_back({parts[j], number * wide + j, p.depth + 1});
  }
  std::vector<Part> parts(small.size());
  auto body = [&](int, int64_t i) {
    const Pending& p = small[i];
    if (p.range.size() <= wide && p.parent_slot >= 0)
      builder.leaf(p.range, parts[i]);
    else
      builder.node(p.range, p.depth, parts[i]);
  };
  parallel_for((int64_t)small.size(), threads, body);
  // The leaves stand in the order in which the parts, and within them the tree, name them.
  std::vector<int32_t>& order = tree->own_order;
  std::vector<int32_t>& begin = tree->own_begin;
  order.resize(num);
  begin.push_back(0);
  int64_t placed = 0;
  tree->depth = 1;
  for (size_t i = 0; i < small.size(); ++i) {
    const int32_t first_node = (int32_t)(children.size() / wide), first_leaf = (int32_t)begin.size() - 1;
    const Part& part = parts[i];
    for (size_t j = 0; j < part.leaves.size(); j += 2) {
      for (int64_t k = part.leaves[j]; k < part.leaves[j + 1]; ++k) order[placed++] = index_of(boxes[k]);
      begin.push_back((int32_t)placed);
    }
    if (small[i].parent_slot >= 0) children[small[i].parent_slot] = part.children.empty() ? ~first_leaf : first_node;
    for (const int32_t c : part.children)
      children.push_back(c == Topology::no_child ? c : c >= 0 ? c + first_node : c - first_leaf);
    tree->depth = part.depth > tree->depth ? part.depth : tree->depth;
  }
  return finish(tree, num, wide);
}

bool tree_pays(int64_t rays) {
  const char* wanted = std::getenv("VOGE_TREE");
  return wanted && *wanted ? *wanted != '0' : rays > 128;
}

Topology* flat_topology(int64_t num, int wide) {
  Tree* tree = new Tree;
  for (int64_t k = 0; k < num; ++k) {
    if (k % wide == 0) tree->own_begin.push_back((int32_t)k);
    tree->own_order.push_back((int32_t)k);
  }
  tree->own_begin.push_back((int32_t)num);
  tree->depth = 0;
  return finish(tree, num, wide);
}

void release_topology(Topology* t) {
  Tree* tree = static_cast<Tree*>(t);
  if (tree && tree->references.fetch_sub(1) == 1) delete tree;
}

// A process forked while another thread was in here never gets the lock: it builds its trees anew.
Topology* find_topology(int64_t num, int wide, int tries) {
  std::unique_lock<std::mutex> lock(cache_mutex, std::try_to_lock);
  if (!lock.owns_lock()) return nullptr;
  std::vector<Tree*>& trees = cache();
  for (size_t i = trees.size(); i-- > 0;) {
    Tree* tree = trees[i];
    if (tree->num != num || tree->wide != wide || tries-- > 0) continue;
    tree->references.fetch_add(1);
    return tree;
  }
  return nullptr;
}

void keep_topology(Topology* t) {
  std::unique_lock<std::mutex> lock(cache_mutex, std::try_to_lock);
  if (!lock.owns_lock()) return;
  std::vector<Tree*>& trees = cache();
  Tree* tree = static_cast<Tree*>(t);
  for (size_t i = 0; i < trees.size(); ++i)
    if (trees[i] == tree) {  // to the end, the place of the latest
      trees.erase(trees.begin() + i);
      trees.push_back(tree);
      return;
    }
  tree->references.fetch_add(1);
  trees.push_back(tree);
  int64_t total = 0;
  for (const Tree* x : trees) total += x->num;
  while (trees.size() > 1 && (trees.size() > most_trees || total > most_gaussians)) {
    total -= trees.front()->num;
    release_topology(trees.front());
    trees.erase(trees.begin());
  }
}

}  // namespace voge
