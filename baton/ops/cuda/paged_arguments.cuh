// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention over pages are given; the same for host and device.
#pragma once

namespace baton {

constexpr int kPagedThreads = 128;
constexpr int kPagedMmaRows = 16; // of a left operand of the tensor units
constexpr int kPagedLaneRows = 8; // of a tile without tensor units

/// Strides are in elements, tables are int32.
struct PagedArguments {
  const void* q; ///< [tokens, heads, channels]
  const void* k_pages;
  const void* v_pages;
  const int* page_table; ///< [sequences, table_width]
  const int* starts;
  const int* kv_lengths;
  void* out;         ///< [tokens, heads, channels], dense
  float* partials;   ///< [splits, tokens, heads, channels]: sums of exp2(score - maximum) * value
  float* statistics; ///< [splits, tokens, heads, 2]: maximum, and sum of exp2(score - maximum)
  long long q_token_stride;
  long long q_head_stride;
  long long k_page_stride;
  long long k_token_stride;
  long long k_head_stride;
  long long v_page_stride;
  long long v_token_stride;
  long long v_head_stride;
  int sequences;
  int tokens;
  int table_width;
  int page_size;
  int pages;
  int group; ///< query heads of a key head
  int channels;
  int floor_keys; ///< of a split, at least
  float scale;    ///< of scores, times log2(e)
};

/// What paged_write is given. Strides are in elements, tables are int32.
struct PagedWriteArguments {
  const void* k; ///< [tokens, heads, channels]
  const void* v;
  void* k_pages;
  void* v_pages;
  const int* page_table; ///< [sequences, table_width]
  const int* starts;
  const int* first_positions;
  long long k_token_stride;
  long long k_head_stride;
  long long v_token_stride;
  long long v_head_stride;
  long long k_page_stride;
  long long k_place_stride; ///< from a token to the next in a page
  long long k_page_head_stride;
  long long v_page_stride;
  long long v_place_stride;
  long long v_page_head_stride;
  int sequences;
  int tokens;
  int heads;
  int table_width;
  int page_size;
  int pages;
  int channels;
};

/// Keys that lie in shared memory at a time, twice.
template <int kHeadDim, int kRowWarps>
constexpr int kPagedTileKeys = kHeadDim > 128 && kRowWarps > 1 ? 32 : 64;

/// Of shared memory, as paged_attention_tiles lays it out: queries, then two stages of keys and
/// values, bf16. Rows are eight values longer than a head, so that they begin in different banks.
template <int kHeadDim, int kRowWarps>
constexpr int kPagedTileBytes = (kPagedMmaRows * kRowWarps +
                                 4 * kPagedTileKeys<kHeadDim, kRowWarps>)*(kHeadDim + 8) *
                                2;

} // namespace baton
