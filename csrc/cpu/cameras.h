// Pinhole cameras: what makes R, t and K those of a camera, the rays through its pixels, and their adjoint.
#pragma once
#include <cmath>
#include <vector>

#include "core/portable.h"
#include "cpu/pool.h"

VOGE_NAMESPACE_BEGIN

constexpr double camera_tolerance = 1e-3;  // of R R' = 1 and of K's last row

template <class T>
inline bool all_finite(const T* x, int64_t count) {
  T sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * 0;  // NaN as soon as one is not finite
  return sum == 0;
}

template <class T>
inline bool is_rotation(const T* R) {
  for (int i = 0; i < 3; ++i)
    for (int j = i; j < 3; ++j) {
      double dot = 0;
      for (int k = 0; k < 3; ++k) dot += double(R[3 * i + k]) * R[3 * j + k];
      if (!(std::abs(dot - (i == j)) <= camera_tolerance)) return false;
    }
  const double x = double(R[1]) * R[5] - double(R[2]) * R[4], y = double(R[2]) * R[3] - double(R[0]) * R[5],
               z = double(R[0]) * R[4] - double(R[1]) * R[3];
  return x * R[6] + y * R[7] + z * R[8] > 0;
}

template <class T>
inline bool is_calibration(const T* K) {
  return K[0] > 0 && K[4] > 0 && std::abs(double(K[6])) <= camera_tolerance &&
         std::abs(double(K[7])) <= camera_tolerance && std::abs(double(K[8]) - 1) <= camera_tolerance;
}

// Whether all of these rotations, translations and calibrations are what they should be.
template <class T>
inline bool are_cameras(const T* R, int64_t rotations, const T* t, int64_t translations, const T* K,
                        int64_t calibrations) {
  if (!all_finite(R, 9 * rotations) || !all_finite(t, 3 * translations) || !all_finite(K, 9 * calibrations))
    return false;
  for (int64_t i = 0; i < rotations; ++i)
    if (!is_rotation(R + 9 * i)) return false;
  for (int64_t i = 0; i < calibrations; ++i)
    if (!is_calibration(K + 9 * i)) return false;
  return true;
}

// Cameras of one flat batch; R, t and K are each of the whole batch or shared (batch 1).
template <class T>
struct CameraArgs {
  int64_t batch, height, width;
  const T *R, *t, *K;
  int64_t R_batch, t_batch, K_batch;
  int threads;
};

struct Matrix3 {
  double m[3][3];
};

inline Matrix3 inverse(const Matrix3& a) {
  Matrix3 r;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {  // cofactor of entry (j, i)
      const int p = (j + 1) % 3, q = (j + 2) % 3, u = (i + 1) % 3, v = (i + 2) % 3;
      r.m[i][j] = a.m[p][u] * a.m[q][v] - a.m[p][v] * a.m[q][u];
    }
  const double scale = 1 / (a.m[0][0] * r.m[0][0] + a.m[0][1] * r.m[1][0] + a.m[0][2] * r.m[2][0]);
  for (auto& row : r.m)
    for (double& x : row) x *= scale;
  return r;
}

template <class T>
inline Matrix3 load3(const T* x) {
  Matrix3 r;
  for (int i = 0; i < 9; ++i) r.m[i / 3][i % 3] = x[i];
  return r;
}

inline Matrix3 product(const Matrix3& a, const Matrix3& b, bool transpose_a, bool transpose_b) {
  Matrix3 r{};
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 3; ++k)
        r.m[i][j] += (transpose_a ? a.m[k][i] : a.m[i][k]) * (transpose_b ? b.m[j][k] : b.m[k][j]);
  return r;
}

// Pixels (u, v) of camera b look along M (u, v, 1), M = R' K^-1, from -R' t.
// origins (batch, 3), directions (batch, height, width, 3)
template <class T>
inline void camera_rays(const CameraArgs<T>& a, T* origins, T* directions, double* projections) {
  std::vector<Matrix3> maps(a.batch);
  for (int64_t b = 0; b < a.batch; ++b) {
    const T *R = a.R + 9 * (b % a.R_batch), *t = a.t + 3 * (b % a.t_batch);
    maps[b] = product(load3(R), inverse(load3(a.K + 9 * (b % a.K_batch))), true, false);
    for (int i = 0; i < 3; ++i) origins[3 * b + i] = -(R[i] * t[0] + R[3 + i] * t[1] + R[6 + i] * t[2]);
    if (!projections) continue;
    const Matrix3 K = load3(a.K + 9 * (b % a.K_batch)), left = product(K, load3(R), false, false);
    for (int i = 0; i < 3; ++i) {
      double* row = projections + 12 * b + 4 * i;
      for (int j = 0; j < 3; ++j) row[j] = left.m[i][j];
      row[3] = K.m[i][0] * t[0] + K.m[i][1] * t[1] + K.m[i][2] * t[2];
    }
  }
  auto row = [&](int, int64_t index) {
    const auto& m = maps[index / a.height].m;
    const double v = double(index % a.height) + 0.5;
    const double x = m[0][1] * v + m[0][2], y = m[1][1] * v + m[1][2], z = m[2][1] * v + m[2][2];
    T* d = directions + index * a.width * 3;
    for (int64_t i = 0; i < a.width; ++i) {
      const double u = double(i) + 0.5;
      d[3 * i] = T(m[0][0] * u + x), d[3 * i + 1] = T(m[1][0] * u + y), d[3 * i + 2] = T(m[2][0] * u + z);
    }
  };
  parallel_for(a.batch * a.height, a.threads, row);
}

// Adjoint: grad_R (batch, 3, 3), grad_t (batch, 3), grad_K (batch, 3, 3), one a camera even where they are shared.
template <class T>
inline void camera_rays_backward(const CameraArgs<T>& a, const T* grad_origins, const T* grad_directions, T* grad_R,
                                 T* grad_t, T* grad_K) {
  // By row, then over the rows in their order: the sums do not depend on the number of threads.
  std::vector<Matrix3> rows(a.batch * a.height);  // dL/dM of each row's pixels
  auto row = [&](int, int64_t index) {
    const T* g = grad_directions + index * a.width * 3;
    const double v = double(index % a.height) + 0.5;
    double sum[3] = {}, moment[3] = {};
    for (int64_t i = 0; i < a.width; ++i)
      for (int k = 0; k < 3; ++k) sum[k] += g[3 * i + k], moment[k] += (double(i) + 0.5) * g[3 * i + k];
    for (int k = 0; k < 3; ++k)
      rows[index].m[k][0] = moment[k], rows[index].m[k][1] = v * sum[k], rows[index].m[k][2] = sum[k];
  };
  parallel_for(a.batch * a.height, a.threads, row);
  for (int64_t b = 0; b < a.batch; ++b) {
    Matrix3 grad_map{};
    for (int64_t y = 0; y < a.height; ++y)
      for (int i = 0; i < 9; ++i) grad_map.m[i / 3][i % 3] += rows[b * a.height + y].m[i / 3][i % 3];
    const T *t = a.t + 3 * (b % a.t_batch), *go = grad_origins + 3 * b;
    const Matrix3 R = load3(a.R + 9 * (b % a.R_batch)), K_inverse = inverse(load3(a.K + 9 * (b % a.K_batch)));
    const Matrix3 to_R = product(K_inverse, grad_map, false, true);
    const Matrix3 to_K =
        product(product(K_inverse, product(R, grad_map, false, false), true, false), K_inverse, false, true);
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) {
        grad_R[9 * b + 3 * i + j] = T(to_R.m[i][j] - double(t[i]) * go[j]);
        grad_K[9 * b + 3 * i + j] = T(-to_K.m[i][j]);
      }
      grad_t[3 * b + i] = T(-(R.m[i][0] * go[0] + R.m[i][1] * go[1] + R.m[i][2] * go[2]));
    }
  }
}

VOGE_NAMESPACE_END
