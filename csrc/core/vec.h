// Vectors and matrices of three dimensions over any type with + - * /: scalars, or vectors of lanes mixed with scalars.
#pragma once
#include "core/scalar.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct Vec3 {
  T x, y, z;
};
template <class T>
struct Sym3 {  // symmetric
  T xx, xy, xz, yy, yz, zz;
};
template <class T>
struct Lower3 {  // lower triangular: row, column
  T xx, yx, zx, yy, zy, zz;
};

template <class A, class B>
VOGE_HD auto operator+(const Vec3<A>& a, const Vec3<B>& b) -> Vec3<decltype(a.x + b.x)> {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class A, class B>
VOGE_HD auto operator-(const Vec3<A>& a, const Vec3<B>& b) -> Vec3<decltype(a.x - b.x)> {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <class A, class B>
VOGE_HD auto operator*(const A& a, const Vec3<B>& b) -> Vec3<decltype(a * b.x)> {
  return {a * b.x, a * b.y, a * b.z};
}
template <class A, class B>
VOGE_HD auto dot(const Vec3<A>& a, const Vec3<B>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class A, class B>
VOGE_HD auto operator*(const Sym3<A>& m, const Vec3<B>& v) -> Vec3<decltype(m.xx * v.x)> {
  return {m.xx * v.x + m.xy * v.y + m.xz * v.z, m.xy * v.x + m.yy * v.y + m.yz * v.z,
          m.xz * v.x + m.yz * v.y + m.zz * v.z};
}
// L' v
template <class A, class B>
VOGE_HD auto transpose_times(const Lower3<A>& l, const Vec3<B>& v) -> Vec3<decltype(l.xx * v.x)> {
  return {l.xx * v.x + l.yx * v.y + l.zx * v.z, l.yy * v.y + l.zy * v.z, l.zz * v.z};
}
template <class T>
VOGE_HD Sym3<T> operator+(const Sym3<T>& a, const Sym3<T>& b) {
  return {a.xx + b.xx, a.xy + b.xy, a.xz + b.xz, a.yy + b.yy, a.yz + b.yz, a.zz + b.zz};
}
// c v v'
template <class T>
VOGE_HD Sym3<T> outer(const T& c, const Vec3<T>& v) {
  const Vec3<T> cv = c * v;
  return {cv.x * v.x, cv.x * v.y, cv.x * v.z, cv.y * v.y, cv.y * v.z, cv.z * v.z};
}
// c (a b' + b a')
template <class T>
VOGE_HD Sym3<T> symmetric_outer(const T& c, const Vec3<T>& a, const Vec3<T>& b) {
  const Vec3<T> ca = c * a;
  return {ca.x * b.x + ca.x * b.x, ca.x * b.y + ca.y * b.x, ca.x * b.z + ca.z * b.x,
          ca.y * b.y + ca.y * b.y, ca.y * b.z + ca.z * b.y, ca.z * b.z + ca.z * b.z};
}

// P = L L'. False, and l undefined, when P is not positive definite or holds a NaN.
template <class T>
VOGE_HD bool cholesky(const Sym3<T>& p, Lower3<T>& l) {
  if (!(p.xx > 0)) return false;
  l.xx = vsqrt(p.xx), l.yx = p.xy / l.xx, l.zx = p.xz / l.xx;
  const T yy = p.yy - l.yx * l.yx;
  if (!(yy > 0)) return false;
  l.yy = vsqrt(yy), l.zy = (p.yz - l.yx * l.zx) / l.yy;
  const T zz = p.zz - l.zx * l.zx - l.zy * l.zy;
  if (!(zz > 0)) return false;
  l.zz = vsqrt(zz);
  return true;
}

VOGE_NAMESPACE_END
