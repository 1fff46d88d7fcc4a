#include "recurrent/sequence.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/decode.hpp"
#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "recurrent/gates.hpp"

namespace nybble {
namespace {

constexpr int64_t kGateWork = 1 << 13; // units of a task of the elementwise part

struct Step {
  int64_t row, count;
};

// In the order of the forward pass.
std::vector<Step> steps_of(const SequenceShape& shape) {
  std::vector<Step> steps;
  int64_t row = 0;
  for (int64_t t = 0; t < shape.steps; row += shape.sizes[t++])
    steps.push_back({row, shape.sizes[t]});
  if (shape.reverse) std::reverse(steps.begin(), steps.end());
  return steps;
}

int64_t most_rows(const SequenceShape& shape) {
  return shape.steps == 0 ? 0 : *std::max_element(shape.sizes, shape.sizes + shape.steps);
}

int64_t code_bytes(int64_t n) { return (n + 63) / 64 * 32; }

// body(r) for every row of a step, several rows a task.
template <class Body>
void each_row(const SequenceShape& shape, int64_t rows, const Body& body) {
  const int64_t together = std::max<int64_t>(1, kGateWork / std::max<int64_t>(shape.hidden, 1));
  parallel_for(shape.threads, (rows + together - 1) / together, [&](int64_t task) {
    const int64_t end = std::min((task + 1) * together, rows);
    for (int64_t r = task * together; r < end; ++r)
      body(r);
  });
}

// Elements [start, start + n) of codes and mask bits, moved to the beginning of a block.
class Slices {
public:
  explicit Slices(int64_t most)
      : bytes_(size_t((most + 63) / 64 * 64)), codes_(size_t(code_bytes(most))),
        bits_(size_t((most + 7) / 8)) {}

  const uint8_t* codes(const uint8_t* all, int64_t start, int64_t n) {
    static const int8_t same[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (start % 64 == 0) return all + start / 2;
    const int64_t padded = (n + 63) / 64 * 64;
    std::fill(bytes_.begin() + n, bytes_.begin() + padded, uint8_t(0));
    active().decode->bytes(all, start, n, same, reinterpret_cast<int8_t*>(bytes_.data()));
    active().streams->pack4(bytes_.data(), padded, codes_.data());
    return codes_.data();
  }

  const uint8_t* mask(const uint8_t* all, int64_t start, int64_t n) {
    if (start % 8 == 0) return all + start / 8;
    std::fill(bits_.begin(), bits_.end(), uint8_t(0));
    for (int64_t i = 0; i < n; ++i) {
      const int bit = all[(start + i) / 8] >> (start + i) % 8 & 1;
      bits_[size_t(i / 8)] = uint8_t(bits_[size_t(i / 8)] | bit << i % 8);
    }
    return bits_.data();
  }

private:
  std::vector<uint8_t> bytes_, codes_, bits_;
};

} // namespace

void sequence_forward(const SequenceShape& shape, const StepRule& rule, StepProduct& product,
                      const ForwardData& data) {
  const GateKernels& gates = *active().gates;
  const int64_t n = shape.hidden, wide = shape.wide(), kept = shape.kept();
  const int64_t most = most_rows(shape);
  std::vector<float> gh(size_t(most * wide)),
      scratch(data.gates == nullptr ? size_t(most * kept) : 0);
  StepOperand operand(rule, most, n, true, shape.threads);
  for (const Step& step : steps_of(shape)) {
    if (data.multiplied != nullptr)
      std::memcpy(data.multiplied + step.row * n, data.h, size_t(step.count * n) * sizeof(float));
    if (data.before != nullptr)
      std::memcpy(data.before + step.row * n, data.c, size_t(step.count * n) * sizeof(float));
    operand.pack(data.h, step.row, step.count);
    product.run(operand.codes(), step.count, operand.multipliers(), operand.apart(), gh.data());
    float* into = data.gates == nullptr ? scratch.data() : data.gates + step.row * kept;
    each_row(shape, step.count, [&](int64_t r) {
      const float* gx = data.gx + (step.row + r) * wide;
      const float* g = gh.data() + r * wide;
      float *h = data.h + r * n, *y = data.y + (step.row + r) * n;
      if (shape.cell == Cell::Lstm)
        gates.lstm(n, gx, g, into + r * kept, data.c + r * n, h);
      else if (shape.cell == Cell::Gru)
        gates.gru(n, gx, g, h, into + r * kept, h);
      else
        gates.plain(n, shape.cell == Cell::Relu, gx, g, h);
      std::memcpy(y, h, size_t(n) * sizeof(float));
    });
  }
}

BackwardResult sequence_backward(const SequenceShape& shape, const StepRule& rule,
                                 StepProduct& product, const Clip& clip, const BackwardData& data) {
  const GateKernels& gates = *active().gates;
  const int64_t n = shape.hidden, wide = shape.wide(), kept = shape.kept();
  const int64_t most = most_rows(shape);
  const bool gru = shape.cell == Cell::Gru;
  std::vector<float> dx(size_t(most * n)), sums(size_t(most * n)),
      direct(gru ? size_t(most * n) : 0);
  StepOperand operand(rule, most, wide, false, shape.threads);
  Slices slices(most * n);
  BackwardResult result;
  std::vector<Step> steps = steps_of(shape);
  std::reverse(steps.begin(), steps.end());
  for (const Step& step : steps) {
    each_row(shape, step.count, [&](int64_t r) {
      const int64_t row = step.row + r;
      const float* d = data.dh + r * n;
      if (data.dy != nullptr) {
        float* sum = sums.data() + r * n;
        for (int64_t j = 0; j < n; ++j)
          sum[j] = d[j] + data.dy[row * n + j];
        d = sum;
      }
      if (shape.cell == Cell::Lstm)
        gates.lstm_grad(n, data.gates + row * kept, data.before + row * n, d, data.dc + r * n,
                        data.dgx + row * wide);
      else if (gru)
        gates.gru_grad(n, data.gates + row * kept, data.before + row * n, d, data.dgx + row * wide,
                       data.dgh + row * wide, direct.data() + r * n);
      else
        gates.plain_grad(n, shape.cell == Cell::Relu, data.y + row * n, d, data.dgx + row * wide);
    });
    operand.pack(data.dgh + step.row * wide, step.row, step.count);
    result.top = std::max(result.top, operand.top());
    product.run(operand.codes(), step.count, operand.multipliers(), operand.apart(), dx.data());
    if (clip.mask != nullptr) {
      const int64_t start = step.row * n, count = step.count * n;
      float sides[2] = {0.0f, 0.0f};
      mask_gradient(dx.data(), count, slices.mask(clip.mask, start, count),
                    clip.codes == nullptr ? nullptr : slices.codes(clip.codes, start, count),
                    clip.sides, clip.two_sided, sides, shape.threads);
      for (int i = 0; i < 2; ++i)
        result.dalpha[i] = sides[i] + result.dalpha[i];
    }
    for (int64_t i = 0; i < step.count * n; ++i)
      data.dh[i] = gru ? dx[size_t(i)] + direct[size_t(i)] : dx[size_t(i)];
  }
  return result;
}

} // namespace nybble
