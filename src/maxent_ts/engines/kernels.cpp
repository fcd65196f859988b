// The parts of a decoding step that are not matrix products with weights, each in one pass, for float32 on a CPU.
//
// Plain C++ behind a C interface: no header of torch or Python, so it compiles in seconds and fits any version of either.
// Every result is computed by itself and in one fixed order, so that no row's bits depend on the rows beside it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 16;
constexpr int64_t kLeastWork = 500000;  // products below which a second thread costs more than it does
constexpr int kQueries = 6;  // queries that share each load of a key or value: 24 accumulators of 64 floats' width

typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(64)));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline Vector all(float value) { return value - Vector{}; }

inline float sum(Vector value) {
  for (int width = kLanes / 2; width; width /= 2)
    for (int lane = 0; lane < width; ++lane) value[lane] += value[lane + width];
  return value[0];
}

// exp by Cody and Waite's reduction and a polynomial of degree 6, relative error below 3e-7. NaN stays NaN; what underflows is 0.
inline Vector exponential(Vector x) {
  const Vector low = all(-87.0f), high = all(88.0f);
  const Integers is_small = x < low;
  Vector y = is_small ? low : x;
  y = y > high ? high : y;
  const Vector magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const Vector n = (y * 1.44269504088896341f + magic) - magic;
  Vector r = y - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vector p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
  const Vector result = p * reinterpret_cast<const Vector&>(exponent);
  return is_small ? Vector{} : result;
}

// `count` queries of one key-value head, over the prompt's keys and each one's own.
template <int count>
void attend_block(const float* const* queries, float* const* outputs, const float* prompt_keys, const float* prompt_values,
                  int64_t num_prompt, int64_t key_stride, const float* const* own_keys, const float* const* own_values,
                  const int64_t* num_own, int64_t size, float scale, float* scores, int64_t score_stride) {
  for (int64_t start = 0; start < num_prompt; start += 2 * kLanes) {
    Vector sums[count][2] = {};
    for (int64_t d = 0; d < size; ++d) {
      const float* keys = prompt_keys + d * key_stride + start;
      const Vector first = load(keys), second = load(keys + kLanes);
      for (int q = 0; q < count; ++q) {
        sums[q][0] += queries[q][d] * first;
        sums[q][1] += queries[q][d] * second;
      }
    }
    for (int q = 0; q < count; ++q) {
      store(scores + q * score_stride + start, sums[q][0] * scale);
      store(scores + q * score_stride + start + kLanes, sums[q][1] * scale);
    }
  }
  for (int q = 0; q < count; ++q) {
    float* row = scores + q * score_stride;
    for (int64_t j = 0; j < num_own[q]; ++j) {
      Vector products = {};
      for (int64_t d = 0; d < size; d += kLanes) products += load(queries[q] + d) * load(own_keys[q] + j * size + d);
      row[num_prompt + j] = sum(products) * scale;
    }
    const int64_t length = num_prompt + num_own[q];
    const int64_t padded = (length + kLanes - 1) / kLanes * kLanes;
    std::fill(row + length, row + padded, -std::numeric_limits<float>::infinity());
    Vector highest = load(row);
    for (int64_t j = kLanes; j < padded; j += kLanes) {
      const Vector next = load(row + j);
      highest = next > highest ? next : highest;
    }
    float top = highest[0];
    for (int lane = 1; lane < kLanes; ++lane) top = std::max(top, highest[lane]);
    Vector total = {};
    for (int64_t j = 0; j < padded; j += kLanes) {
      const Vector weight = exponential(load(row + j) - top);
      store(row + j, weight);
      total += weight;
    }
    row[padded] = 1.0f / sum(total);
  }
  for (int64_t d = 0; d < size; d += 4 * kLanes) {
    const int width = static_cast<int>(std::min<int64_t>(4, (size - d) / kLanes));
    Vector sums[count][4] = {};
    if (width == 4) {
      for (int64_t p = 0; p < num_prompt; ++p) {
        const float* values = prompt_values + p * size + d;
        const Vector parts[4] = {load(values), load(values + kLanes), load(values + 2 * kLanes), load(values + 3 * kLanes)};
        for (int q = 0; q < count; ++q) {
          const float weight = scores[q * score_stride + p];
          for (int part = 0; part < 4; ++part) sums[q][part] += weight * parts[part];
        }
      }
    } else {
      for (int64_t p = 0; p < num_prompt; ++p)
        for (int q = 0; q < count; ++q)
          for (int part = 0; part < width; ++part)
            sums[q][part] += scores[q * score_stride + p] * load(prompt_values + p * size + d + part * kLanes);
    }
    for (int q = 0; q < count; ++q) {
      const float* row = scores + q * score_stride;
      for (int64_t j = 0; j < num_own[q]; ++j)
        for (int part = 0; part < width; ++part)
          sums[q][part] += row[num_prompt + j] * load(own_values[q] + j * size + d + part * kLanes);
      const float factor = row[(num_prompt + num_own[q] + kLanes - 1) / kLanes * kLanes];
      for (int part = 0; part < width; ++part) store(outputs[q] + d + part * kLanes, sums[q][part] * factor);
    }
  }
}

#ifdef __AVX512VNNI__
constexpr int kTile = 32, kRows = 12;  // 24 accumulators of 16 integers

// Round a row to 8 bits: x is about rounded * factor. `offset` is what the weights' 128 adds to each product, to be taken off.
void round_row(const float* x, int8_t* rounded, int64_t size, float* factor, int32_t* offset) {
  float top = 0.0f, poison = 0.0f;
  for (int64_t d = 0; d < size; ++d) {
    top = std::max(top, std::fabs(x[d]));
    poison += x[d] * 0.0f;  // NaN if anything is not finite
  }
  const float scale = top > 0.0f ? 127.0f / top : 0.0f;
  int32_t total = 0;
  for (int64_t d = 0; d < size; ++d) {
    const float shifted = x[d] * scale + 12582912.0f;  // 1.5 * 2^23: the last bits are the nearest integer
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    rounded[d] = static_cast<int8_t>(bits - 0x4B400000);
    total += rounded[d];
  }
  *factor = top / 127.0f + poison;
  *offset = -128 * total;
}

template <int count>
void int8_tile(const int8_t* rows, const uint8_t* weight, int64_t num_groups, const int32_t* offsets, const float* factors,
               const float* scales, const float* bias, float* output, int64_t first_row, int64_t tile, int64_t num_outputs) {
  __m512i sums[count][2];
  for (int r = 0; r < count; ++r) sums[r][0] = sums[r][1] = _mm512_set1_epi32(offsets[r]);
  for (int64_t group = 0; group < num_groups; ++group) {
    const __m512i first = _mm512_loadu_si512(weight + group * 128), second = _mm512_loadu_si512(weight + group * 128 + 64);
    for (int r = 0; r < count; ++r) {
      int32_t four;
      std::memcpy(&four, rows + (r * num_groups + group) * 4, sizeof four);
      const __m512i inputs = _mm512_set1_epi32(four);
      sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], first, inputs);
      sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], second, inputs);
    }
  }
  for (int half = 0; half < 2; ++half) {
    const int64_t start = tile * kTile + half * 16, left = num_outputs - start;
    if (left <= 0) continue;
    const __mmask16 mask = left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1);
    const __m512 scale = _mm512_loadu_ps(scales + half * 16);
    const __m512 shift = bias ? _mm512_loadu_ps(bias + start) : _mm512_setzero_ps();
    for (int r = 0; r < count; ++r) {
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][half]), _mm512_mul_ps(scale, _mm512_set1_ps(factors[r])));
      _mm512_mask_storeu_ps(output + (first_row + r) * num_outputs + start, mask, _mm512_add_ps(value, shift));
    }
  }
}
#endif

}  // namespace

extern "C" {

// Attention of the rows that continue one prompt. Rows hold one query for each head.
//   query [rows, heads, size], with `query_stride` floats from row to row; output [rows, heads, size].
//   prompt_keys [key heads, size, key_stride]: transposed, `num_prompt` of them, a multiple of 32 of which the first
//   `num_prompt_tokens` are real; prompt_values [key heads, num_prompt, size].
//   own_keys, own_values [slots, key heads, positions, size]; lengths [slots]: keys of each row, the newest among them.
//   rows [num_rows]: the slots of the rows, which also index query and output.
void attend(const float* query, float* output, int64_t query_stride, const float* prompt_keys, const float* prompt_values,
            int64_t num_prompt_tokens, int64_t num_prompt, int64_t key_stride, const float* own_keys, const float* own_values,
            int64_t num_positions, const int64_t* lengths, const int64_t* rows, int64_t num_rows, int64_t num_heads,
            int64_t num_key_heads, int64_t size, float scale, int num_threads) {
  const int64_t shared = num_heads / num_key_heads, num_queries = num_rows * shared;
  const int64_t num_blocks = (num_queries + kQueries - 1) / kQueries;
  int64_t longest = 0;
  for (int64_t r = 0; r < num_rows; ++r) longest = std::max(longest, lengths[rows[r]]);
  const int64_t score_stride = (num_prompt + longest + 2 * kLanes) / kLanes * kLanes + kLanes;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1 && num_queries * (num_prompt_tokens + longest) * num_key_heads * size > kLeastWork)
  {
    std::vector<float> scores(kQueries * score_stride);
#pragma omp for collapse(2)
    for (int64_t head = 0; head < num_key_heads; ++head) {
      for (int64_t block = 0; block < num_blocks; ++block) {
        const float *queries[kQueries], *keys[kQueries], *values[kQueries];
        float* outputs[kQueries];
        int64_t num_own[kQueries];
        const int count = static_cast<int>(std::min<int64_t>(kQueries, num_queries - block * kQueries));
        for (int q = 0; q < count; ++q) {
          const int64_t index = block * kQueries + q, row = rows[index / shared], which = head * shared + index % shared;
          queries[q] = query + row * query_stride + which * size;
          outputs[q] = output + (row * num_heads + which) * size;
          keys[q] = own_keys + (row * num_key_heads + head) * num_positions * size;
          values[q] = own_values + (row * num_key_heads + head) * num_positions * size;
          num_own[q] = lengths[row];
        }
        // What lies behind the prompt's real keys is replaced by the own ones.
        const float* prompt_key = prompt_keys + head * size * key_stride;
        const float* prompt_value = prompt_values + head * num_prompt * size;
#define BLOCK(n)                                                                                                            \
  case n:                                                                                                                   \
    attend_block<n>(queries, outputs, prompt_key, prompt_value, num_prompt_tokens, key_stride, keys, values, num_own, size, \
                    scale, scores.data(), score_stride);                                                                    \
    break;
        switch (count) { BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5) BLOCK(6) }
#undef BLOCK
      }
    }
  }
}

// Write one key and value for each row into its slot.
//   key, value [rows, key heads, size], with strides in floats from row to row; buffers as in `attend`; positions [rows].
void write(const float* key, int64_t key_stride, const float* value, int64_t value_stride, float* keys, float* values,
           const int64_t* positions, int64_t num_rows, int64_t num_key_heads, int64_t num_positions, int64_t size) {
  for (int64_t row = 0; row < num_rows; ++row)
    for (int64_t head = 0; head < num_key_heads; ++head) {
      const int64_t place = ((row * num_key_heads + head) * num_positions + positions[row]) * size;
      std::memcpy(keys + place, key + row * key_stride + head * size, size * sizeof(float));
      std::memcpy(values + place, value + row * value_stride + head * size, size * sizeof(float));
    }
}

// Rotary position embedding of one position of each row: x * cos + rotate_half(x) * sin.
//   x [rows, heads, size] with `stride` floats from row to row; output [rows, heads, size]; cos, sin [rows, size].
void rotate(const float* x, int64_t stride, float* output, const float* cos, const float* sin, int64_t num_rows,
            int64_t num_heads, int64_t size) {
  const int64_t half = size / 2;
  for (int64_t row = 0; row < num_rows; ++row)
    for (int64_t head = 0; head < num_heads; ++head) {
      const float *from = x + row * stride + head * size, *c = cos + row * size, *s = sin + row * size;
      float* to = output + (row * num_heads + head) * size;
      for (int64_t d = 0; d < half; ++d) {
        to[d] = from[d] * c[d] - from[d + half] * s[d];
        to[d + half] = from[d + half] * c[d + half] + from[d] * s[d + half];
      }
    }
}

// x / sqrt(mean(x^2) + epsilon) * weight for each row: x, output [rows, size].
void rms_norm(const float* x, const float* weight, float* output, int64_t num_rows, int64_t size, float epsilon) {
  for (int64_t row = 0; row < num_rows; ++row) {
    const float* from = x + row * size;
    float* to = output + row * size;
    Vector squares = {};
    int64_t d = 0;
    for (; d + kLanes <= size; d += kLanes) squares += load(from + d) * load(from + d);
    float total = sum(squares);
    for (; d < size; ++d) total += from[d] * from[d];
    const float factor = 1.0f / std::sqrt(total / size + epsilon);
    for (d = 0; d < size; ++d) to[d] = weight[d] * (from[d] * factor);
  }
}

// silu(gate) * up: gate_up [rows, 2 * size], the gate first; output [rows, size]. `size` is a multiple of 16.
void silu_product(const float* gate_up, float* output, int64_t num_rows, int64_t size) {
  for (int64_t row = 0; row < num_rows; ++row)
    for (int64_t d = 0; d < size; d += kLanes) {
      const Vector gate = load(gate_up + 2 * row * size + d);
      store(output + row * size + d, gate / (1.0f + exponential(-gate)) * load(gate_up + (2 * row + 1) * size + d));
    }
}

// Whether this processor multiplies 8-bit integers in groups of four.
int has_int8_products() {
#ifdef __AVX512VNNI__
  return 1;
#else
  return 0;
#endif
}

#ifdef __AVX512VNNI__
// x @ weight^T + bias, with each row of x rounded to 8 bits by its own largest absolute value.
//   x [num_rows, num_inputs]; output [num_rows, num_outputs].
//   weight: 8-bit integers plus 128, laid out as [tiles of 32 outputs, groups of 4 inputs, 32 outputs, 4 inputs]; what fills the
//   last tile and group up is arbitrary and 128. scales [outputs filled up]; bias [outputs filled up] or null.
// The sums are of integers, so they are exact, whatever their order.
void int8_linear(const float* x, float* output, const uint8_t* weight, const float* scales, const float* bias, int64_t num_rows,
                 int64_t num_inputs, int64_t num_outputs, int num_threads) {
  const int64_t num_groups = (num_inputs + 3) / 4, num_tiles = (num_outputs + kTile - 1) / kTile;
  std::vector<int8_t> rounded(num_rows * num_groups * 4, 0);
  std::vector<float> factors(num_rows);
  std::vector<int32_t> offsets(num_rows);
  for (int64_t row = 0; row < num_rows; ++row)
    round_row(x + row * num_inputs, rounded.data() + row * num_groups * 4, num_inputs, &factors[row], &offsets[row]);
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows * num_inputs * num_outputs > kLeastWork)
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const uint8_t* own = weight + tile * num_groups * kTile * 4;
    for (int64_t row = 0; row < num_rows; row += kRows) {
      const int8_t* from = rounded.data() + row * num_groups * 4;
#define TILE(n)                                                                                                         \
  case n:                                                                                                               \
    int8_tile<n>(from, own, num_groups, &offsets[row], &factors[row], scales + tile * kTile, bias, output, row, tile, \
                 num_outputs);                                                                                          \
    break;
      switch (std::min<int64_t>(kRows, num_rows - row)) {
        TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
      }
#undef TILE
    }
  }
}
#endif

}  // extern "C"
