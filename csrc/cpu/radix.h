// Sorting by whole numbers.
#pragma once
#include <cstdint>

#include "core/scalar.h"

VOGE_NAMESPACE_BEGIN

// Items by ascending bits `from` .. `to` of their key, by `digit` bits at a time; equal ones keep their order. Digits
// that all items share cost one pass over them. Returns where the sorted items are, `a` or `b`; both hold n.
template <int digit, class Item, class Key>
static Item* radix_sort(Item* a, Item* b, int64_t n, int from, int to, Key&& key) {
  constexpr int values = 1 << digit;
  for (int shift = from; n > 0 && shift < to; shift += digit) {
    auto value = [&](const Item& item) { return (int)(key(item) >> shift & (values - 1)); };
    int64_t start[values + 1] = {0};
    for (int64_t i = 0; i < n; ++i) ++start[value(a[i]) + 1];
    if (start[value(a[0]) + 1] == n) continue;
    for (int i = 0; i < values; ++i) start[i + 1] += start[i];
    for (int64_t i = 0; i < n; ++i) b[start[value(a[i])]++] = a[i];
    exchange(a, b);
  }
  return a;
}

VOGE_NAMESPACE_END
