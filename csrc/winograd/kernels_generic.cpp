// Every Winograd kernel as its formula says, one element at a time.
#include "winograd/kernels.hpp"

namespace nybble {
namespace {

// Sums are made in uint32_t: they may wrap, and unsigned wrapping is defined.
using Word = uint32_t;

void data_transform(const Word d[4][4], Word v[kPositions]) {
  Word t[4][4];
  for (int j = 0; j < 4; ++j) {
    t[0][j] = d[0][j] - d[2][j];
    t[1][j] = d[1][j] + d[2][j];
    t[2][j] = d[2][j] - d[1][j];
    t[3][j] = d[1][j] - d[3][j];
  }
  for (int i = 0; i < 4; ++i) {
    v[4 * i + 0] = t[i][0] - t[i][2];
    v[4 * i + 1] = t[i][1] + t[i][2];
    v[4 * i + 2] = t[i][2] - t[i][1];
    v[4 * i + 3] = t[i][1] - t[i][3];
  }
}

void grad_transform(const Word d[2][2], Word v[kPositions]) {
  for (int i = 0; i < 4; ++i) {
    Word t[2];
    for (int j = 0; j < 2; ++j)
      t[j] = i == 0   ? d[0][j]
             : i == 1 ? d[0][j] + d[1][j]
             : i == 2 ? d[0][j] - d[1][j]
                      : Word(0) - d[1][j];
    v[4 * i + 0] = t[0];
    v[4 * i + 1] = t[0] + t[1];
    v[4 * i + 2] = t[0] - t[1];
    v[4 * i + 3] = Word(0) - t[1];
  }
}

template <class T>
void patch(const T* const* rows, int64_t at, int64_t channels, Word d[4][4]) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j)
      d[i][j] = Word(int32_t(rows[i][at + j * channels]));
}

void data_bytes(const int8_t* const* rows, int64_t tiles, int64_t channels, uint8_t sums,
                uint8_t differences, int64_t tile_stride, int64_t position_stride, uint8_t* out) {
  Word d[4][4], v[kPositions];
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t c = 0; c < channels; ++c) {
      patch(rows, 2 * tile * channels + c, channels, d);
      data_transform(d, v);
      for (int p = 0; p < kPositions; ++p)
        out[p * position_stride + tile * tile_stride + c] =
            uint8_t(v[p] + (p == 5 ? sums : differences));
    }
}

void data_words(const int16_t* const* rows, int64_t tiles, int64_t channels, int64_t tile_stride,
                int64_t position_stride, int16_t* out) {
  Word d[4][4], v[kPositions];
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t c = 0; c < channels; ++c) {
      patch(rows, 2 * tile * channels + c, channels, d);
      data_transform(d, v);
      for (int p = 0; p < kPositions; ++p)
        out[p * position_stride + tile * tile_stride + c] = int16_t(uint16_t(v[p]));
    }
}

int slot_of(int64_t channel) {
  for (int slot = 0; slot < kPanel; ++slot)
    if (kPairOrder[slot] == channel % kPanel) return slot;
  return 0;
}

void store_pair(const Word v[kPositions], int64_t tile, int64_t c, int64_t panel_stride,
                int64_t position_stride, int16_t* out) {
  int16_t* to = out + c / kPanel * panel_stride + tile / 2 * 2 * kPanel + 2 * slot_of(c) + tile % 2;
  for (int p = 0; p < kPositions; ++p)
    to[p * position_stride] = int16_t(uint16_t(v[p]));
}

void pairs_data(const int16_t* const* rows, int64_t pairs, int64_t channels, int64_t panel_stride,
                int64_t position_stride, int16_t* out) {
  Word d[4][4], v[kPositions];
  for (int64_t tile = 0; tile < 2 * pairs; ++tile)
    for (int64_t c = 0; c < channels; ++c) {
      patch(rows, 2 * tile * channels + c, channels, d);
      data_transform(d, v);
      store_pair(v, tile, c, panel_stride, position_stride, out);
    }
}

void pairs_grad(const int16_t* const* rows, int64_t pairs, int64_t channels, int64_t panel_stride,
                int64_t position_stride, int16_t* out) {
  Word d[2][2], v[kPositions];
  for (int64_t tile = 0; tile < 2 * pairs; ++tile)
    for (int64_t c = 0; c < channels; ++c) {
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
          d[i][j] = Word(int32_t(rows[i][(2 * tile + j) * channels + c]));
      grad_transform(d, v);
      store_pair(v, tile, c, panel_stride, position_stride, out);
    }
}

// U of one kernel whose taps are w[(3 * kh + kw) * stride].
template <class T>
void kernel_transform(const T* w, int64_t stride, int32_t u[kPositions]) {
  int32_t t[4][3];
  for (int j = 0; j < 3; ++j) {
    const int32_t a = w[j * stride], b = w[(3 + j) * stride], c = w[(6 + j) * stride];
    t[0][j] = 2 * a, t[1][j] = a + b + c, t[2][j] = a - b + c, t[3][j] = 2 * c;
  }
  for (int i = 0; i < 4; ++i) {
    const int32_t a = t[i][0], b = t[i][1], c = t[i][2];
    u[4 * i] = 2 * a, u[4 * i + 1] = a + b + c, u[4 * i + 2] = a - b + c, u[4 * i + 3] = 2 * c;
  }
}

template <int Q>
int64_t padded_groups(int64_t contraction) {
  const int64_t groups = (contraction + Q - 1) / Q;
  return (groups + kGroupStep - 1) / kGroupStep * kGroupStep;
}

template <class T, int Q>
void clear(int64_t contraction, int64_t position_stride, T* u) {
  for (int p = 0; p < kPositions; ++p)
    for (int64_t i = 0; i < padded_groups<Q>(contraction) * kPanel * Q; ++i)
      u[p * position_stride + i] = 0;
}

template <class T, int Q>
void weights(const T* w, int64_t outputs, int64_t channels, int64_t position_stride, T* u) {
  clear<T, Q>(channels, position_stride, u);
  int32_t one[kPositions];
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t c = 0; c < channels; ++c) {
      kernel_transform(w + o * 9 * channels + c, channels, one);
      for (int p = 0; p < kPositions; ++p)
        u[p * position_stride + c / Q * kPanel * Q + o * Q + c % Q] = T(one[p]);
    }
}

template <class T, int Q>
void turned(const T* w, int64_t kernels, int64_t channels, int64_t first, int64_t position_stride,
            T* u) {
  clear<T, Q>(kernels, position_stride, u);
  static const int turn[4] = {3, 1, 2, 0};
  int32_t one[kPositions];
  for (int64_t k = 0; k < kernels; ++k)
    for (int64_t c = first; c < channels && c < first + kPanel; ++c) {
      kernel_transform(w + k * 9 * channels + c, channels, one);
      for (int p = 0; p < kPositions; ++p) {
        const int from = 4 * turn[p / 4] + turn[p % 4];
        u[p * position_stride + k / Q * kPanel * Q + (c - first) * Q + k % Q] = T(one[from]);
      }
    }
}

void sums(const int8_t* u, int64_t groups, int32_t* out) {
  for (int o = 0; o < kPanel; ++o) {
    out[o] = 0;
    for (int64_t g = 0; g < groups; ++g)
      for (int i = 0; i < 4; ++i)
        out[o] += u[(g * kPanel + o) * 4 + i];
  }
}

template <int Q, class A, class B>
void product(int64_t tiles, int64_t groups, const A* v, int64_t tile_stride, const B* u,
             int32_t* m) {
  for (int64_t t = 0; t < tiles; ++t)
    for (int o = 0; o < kPanel; ++o) {
      Word sum = 0;
      for (int64_t g = 0; g < groups; ++g)
        for (int i = 0; i < Q; ++i)
          sum +=
              Word(int32_t(v[t * tile_stride + Q * g + i]) * int32_t(u[(g * kPanel + o) * Q + i]));
      m[t * kPanel + o] = int32_t(sum);
    }
}

void product_bytes(int64_t tiles, int64_t groups, const uint8_t* v, int64_t tile_stride,
                   const int8_t* u, int64_t, int32_t* m) {
  product<4>(tiles, groups, v, tile_stride, u, m);
}

void product_words(int64_t tiles, int64_t groups, const int16_t* v, int64_t tile_stride,
                   const int16_t* u, int32_t* m) {
  product<2>(tiles, groups, v, tile_stride, u, m);
}

void product_pairs(int64_t pairs, const int16_t* a, const int16_t* b, int32_t* m) {
  for (int64_t pair = 0; pair < pairs; ++pair, a += 2 * kPanel, b += 2 * kPanel)
    for (int r = 0; r < kPanel; ++r)
      for (int c = 0; c < kPanel; ++c) {
        int32_t& to = m[r * kPanel + c];
        to = int32_t(Word(to) + Word(int32_t(a[2 * r]) * int32_t(b[2 * c])) +
                     Word(int32_t(a[2 * r + 1]) * int32_t(b[2 * c + 1])));
      }
}

void output(const int32_t* m, int64_t position_stride, int64_t tiles, const WinogradEpilogue& e,
            float* out) {
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t o = 0; o < e.channels; ++o) {
      Word t[2][4], y[2][2];
      for (int j = 0; j < 4; ++j) {
        Word x[4];
        for (int i = 0; i < 4; ++i)
          x[i] = Word(m[(4 * i + j) * position_stride + tile * kPanel + o]);
        t[0][j] = x[0] + x[1] + x[2];
        t[1][j] = x[1] - x[2] - x[3];
      }
      for (int i = 0; i < 2; ++i) {
        y[i][0] = t[i][0] + t[i][1] + t[i][2];
        y[i][1] = t[i][1] - t[i][2] - t[i][3];
      }
      for (int64_t i = 0; i < e.rows; ++i)
        for (int64_t j = 0; j < 2 && 2 * tile + j < e.columns; ++j) {
          const Word four = y[i][j] + Word(e.add[(2 * i + j) * kPanel + o]);
          float value = float(int32_t(four) >> 2) * e.scale[o];
          if (e.bias != nullptr) value += e.bias[o];
          out[i * e.row_stride + (2 * tile + j) * e.pixel_stride + o] = value;
        }
    }
}

void flush() {}

void grad_weight(const int32_t* m, int64_t position_stride, int32_t* out) {
  for (int a = 0; a < kPanel; ++a)
    for (int b = 0; b < kPanel; ++b) {
      Word t[3][4];
      for (int j = 0; j < 4; ++j) {
        Word x[4];
        for (int i = 0; i < 4; ++i)
          x[i] = Word(m[(4 * i + j) * position_stride + a * kPanel + b]);
        t[0][j] = 2 * x[0] + x[1] + x[2];
        t[1][j] = x[1] - x[2];
        t[2][j] = x[1] + x[2] + 2 * x[3];
      }
      for (int i = 0; i < 3; ++i) {
        const Word four[3] = {2 * t[i][0] + t[i][1] + t[i][2], t[i][1] - t[i][2],
                              t[i][1] + t[i][2] + 2 * t[i][3]};
        for (int j = 0; j < 3; ++j)
          out[(kPairOrder[a] * 9 + 3 * i + j) * kPanel + kPairOrder[b]] = int32_t(four[j]) >> 2;
      }
    }
}

} // namespace

const WinogradData kWinogradDataGeneric = {data_bytes, data_words, pairs_data, pairs_grad};
const WinogradWeights kWinogradWeightsGeneric = {weights<int8_t, 4>, weights<int16_t, 2>,
                                                 turned<int8_t, 4>, turned<int16_t, 2>, sums};
const WinogradProducts kWinogradProductsGeneric = {product_bytes, product_words, product_pairs};
const WinogradResults kWinogradResultsGeneric = {output, flush, grad_weight};

const WinogradKernels kWinogradGeneric = {&kWinogradDataGeneric, &kWinogradWeightsGeneric,
                                          &kWinogradProductsGeneric, &kWinogradResultsGeneric};

} // namespace nybble
