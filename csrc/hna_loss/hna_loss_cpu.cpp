#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../common/elementwise.h"
#include "hna_loss_check.h"

namespace ggnet {
namespace {

constexpr int64_t kLanes = 16;     // partial sums of a block
constexpr int64_t kBlock = 256;    // cells that are in flight between loads and stores
constexpr int64_t kChunk = 16384;  // cells that a thread takes at a time

template <class A>
struct Constants {
  A alpha, gamma, hard_weight;
  A eps, rest, log_eps, log_rest;  // rest = 1 - eps
  A clamped_from;                  // the logit of 1 - eps
  A farthest;                      // logits beyond it are all the same
  bool paper_powers;               // alpha = 2 and gamma = 4: products instead of exp and log
};

template <class A>
Constants<A> constants(const HnaLossParams& p) {
  const A eps = static_cast<A>(p.eps);
  return {static_cast<A>(p.alpha),
          static_cast<A>(p.gamma),
          static_cast<A>(std::exp2(p.beta)),
          eps,
          A(1) - eps,
          std::log(eps),
          static_cast<A>(std::log1p(-p.eps)),
          static_cast<A>(std::log1p(-p.eps) - std::log(p.eps)),
          A(80),
          p.alpha == 2 && p.gamma == 4};
}

// min(v, 0) and v between low and high; NaN stays.
template <class A>
GGNET_INLINE A at_most_zero(A v) {
  return v > A(0) ? A(0) : v;
}
template <class A>
GGNET_INLINE A limit(A v, A low, A high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

// A cell's term and the derivative of minus that term, of the logit x at the target m.
//
// A positive is a negative seen from the other side: with z = -x for positives and z = x for all
// others, a = sigmoid(z) and L = log(1 - a), the term is w a^alpha L and its derivative by z is
// w a^alpha (alpha (1 - a) L - a).
template <bool kPaperPowers, class A>
GGNET_INLINE void cell(A x, A m, const Constants<A>& c, A& term, A& derivative) {
  const bool positive = m == A(1);
  const A side = positive ? A(-1) : A(1);
  const A z = x * side;
  const A distance = std::fabs(z) > c.farthest ? c.farthest : std::fabs(z);
  const A e = exp_lane(-distance);
  const A log1p_e = log1p_unit_lane(e);
  const A major = A(1) / (A(1) + e), minor = e * major;
  const A a = z >= A(0) ? major : minor;
  const A b = A(1) - a;
  const A log_b = limit(at_most_zero(-z) - log1p_e, c.log_eps, c.log_rest);

  const A rest = positive ? A(1) : A(1) - m;  // the weight of a positive is 1
  A power, weight;
  if constexpr (kPaperPowers) {
    const A clamped = limit(a, c.eps, c.rest);
    power = clamped * clamped;
    weight = (rest * rest) * (rest * rest);
  } else {
    const A log_a = limit(at_most_zero(z) - log1p_e, c.log_eps, c.log_rest);
    power = exp_lane(limit(c.alpha * log_a, A(-80), A(0)));
    weight = exp_lane(limit(c.gamma * log_lane(rest), A(-80), A(80)));
    weight = rest == rest ? weight : rest;  // log_lane's result of NaN is not specified
  }
  weight = m == A(-1) ? c.hard_weight : weight;
  const A scale = weight * power;
  term = scale * log_b;
  const A slope = scale * side * (a - c.alpha * (b * log_b));
  derivative = std::fabs(z) > c.clamped_from ? A(0) : slope;
}

// Sum of the terms of n cells; grad, where it is wanted, is scaled by inverse_count.
template <bool kPaperPowers, class T, class M>
GGNET_INLINE double run_cells(const T* __restrict logits, const M* __restrict target,
                              T* __restrict grad, int64_t n,
                              const Constants<MathType<T>>* constants, MathType<T> inverse_count) {
  using A = MathType<T>;
  const Constants<A> c = *constants;
  double sums[kLanes] = {};
  for (int64_t start = 0; start < n; start += kBlock) {
    A x[kBlock], m[kBlock], terms[kBlock], derivatives[kBlock];
    const int64_t count = std::min(kBlock, n - start);
    for (int64_t i = count; i < kBlock; ++i) x[i] = m[i] = A(0);
    for (int64_t i = 0; i < count; ++i) x[i] = to_math(logits[start + i]);
    for (int64_t i = 0; i < count; ++i) m[i] = static_cast<A>(to_math(target[start + i]));
    for (int64_t i = 0; i < kBlock; ++i)
      cell<kPaperPowers>(x[i], m[i], c, terms[i], derivatives[i]);
    for (int64_t i = count; i < kBlock; ++i) terms[i] = A(0);
    A partial[kLanes] = {};
    for (int64_t i = 0; i < kBlock; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) partial[lane] += terms[i + lane];
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += partial[lane];
    if (grad != nullptr)
      for (int64_t i = 0; i < count; ++i)
        grad[start + i] = from_math<T>(derivatives[i] * inverse_count);
  }
  double sum = 0;
  for (double lane : sums) sum += lane;
  return sum;
}

template <class M>
GGNET_INLINE int64_t count_positives(const M* target, int64_t n) {
  int64_t total = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = std::min(kBlock, n - start);
    int32_t positives = 0;
    for (int64_t i = 0; i < count; ++i) positives += to_math(target[start + i]) == 1;
    total += positives;
  }
  return total;
}

// Cells [begin, begin + count) of one image's (channels, cells) map, as (count, channels).
template <class M>
void transpose(const M* map, M* out, const HnaLossParams& p, int64_t begin, int64_t count) {
  for (int64_t v = 0; v < p.channels; ++v)
    for (int64_t i = 0; i < count; ++i) out[i * p.channels + v] = map[v * p.cells + begin + i];
}

template <class T, class M>
double hna_loss_kernel(const T* logits, const M* target, T* grad, const HnaLossParams& p) {
  using A = MathType<T>;
  const Isa isa = cpu_isa();
  const Constants<A> c = constants<A>(p);
  const int64_t total = p.batch * p.channels * p.cells;
  const int64_t chunks = (total + kChunk - 1) / kChunk;
  std::vector<int64_t> counts(chunks);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      counts[i] =
          run<count_positives<M>>(isa, target + i * kChunk, std::min(kChunk, total - i * kChunk));
  });
  int64_t positives = 0;
  for (int64_t count : counts) positives += count;
  const double inverse_count = 1.0 / std::max<int64_t>(positives, 1);

  const auto run_range = [&](const M* m, int64_t start, int64_t n) {
    const auto body =
        c.paper_powers
            ? &run<run_cells<true, T, M>, const T*, const M*, T*, int64_t, const Constants<A>*, A>
            : &run<run_cells<false, T, M>, const T*, const M*, T*, int64_t, const Constants<A>*, A>;
    return body(isa, logits + start, m, grad == nullptr ? nullptr : grad + start, n, &c,
                static_cast<A>(inverse_count));
  };
  std::vector<double> sums;
  if (p.channels_last && !p.target_channels_last) {
    // Tiles of whole pixels: the target's rows are read once and turned in the cache.
    const int64_t tile = std::max<int64_t>(16, kChunk / p.channels / 16 * 16);
    const int64_t tiles = (p.cells + tile - 1) / tile;
    sums.resize(p.batch * tiles);
    torch::stable::parallel_for(0, p.batch * tiles, 1, [&](int64_t begin, int64_t end) {
      std::vector<M> turned(tile * p.channels);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / tiles * p.channels * p.cells, cell = i % tiles * tile;
        const int64_t count = std::min(tile, p.cells - cell);
        transpose(target + image, turned.data(), p, cell, count);
        sums[i] = run_range(turned.data(), image + cell * p.channels, count * p.channels);
      }
    });
  } else {
    sums.resize(chunks);
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        sums[i] = run_range(target + i * kChunk, i * kChunk, std::min(kChunk, total - i * kChunk));
    });
  }
  double sum = 0;
  for (double part : sums) sum += part;
  return (0 - sum) * inverse_count;
}

// out = grad * factor; out may be grad.
template <class T>
void scale_kernel(const T* grad, T* out, int64_t n, double factor) {
  torch::stable::parallel_for(0, n, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      out[i] = from_math<T>(to_math(grad[i]) * static_cast<MathType<T>>(factor));
  });
}

std::tuple<Tensor, Tensor> hna_loss(Tensor logits, Tensor target, double alpha, double beta,
                                    double gamma, double eps, bool with_grad) {
  const HnaLossParams params = hna_loss_params(logits, target, alpha, beta, gamma, eps);
  const auto dtype = logits.scalar_type();
  const Tensor grad =
      with_grad ? empty(logits.sizes(), logits, params.channels_last) : empty({0}, logits);
  const bool f64 = dtype == ScalarType::Double;
  const Tensor loss = empty({}, logits, false, f64 ? dtype : ScalarType::Float);
  with_type(logits, "logits", [&]<class T>(T*) {
    const auto launch = [&]<class M>(const M* targets) {
      const double value =
          hna_loss_kernel(static_cast<const T*>(logits.const_data_ptr()), targets,
                          with_grad ? static_cast<T*>(grad.mutable_data_ptr()) : nullptr, params);
      if (f64)
        *static_cast<double*>(loss.mutable_data_ptr()) = value;
      else
        *static_cast<float*>(loss.mutable_data_ptr()) = static_cast<float>(value);
    };
    if (target.scalar_type() == ScalarType::Float)
      launch(static_cast<const float*>(target.const_data_ptr()));
    else
      launch(static_cast<const T*>(target.const_data_ptr()));
  });
  return {loss, grad};
}

double read_scalar(const Tensor& grad_loss) {
  double value = 0;
  with_type(grad_loss, "grad_loss", [&]<class T>(T*) {
    value = to_math(*static_cast<const T*>(grad_loss.const_data_ptr()));
  });
  return value;
}

void scale(const Tensor& grad_loss, const Tensor& grad, const Tensor& out) {
  const double factor = read_scalar(grad_loss);
  with_type(grad, "grad", [&]<class T>(T*) {
    scale_kernel(static_cast<const T*>(grad.const_data_ptr()),
                 static_cast<T*>(out.mutable_data_ptr()), grad.numel(), factor);
  });
}

Tensor hna_loss_backward(Tensor grad_loss, Tensor grad) {
  check_grad_loss(grad_loss, grad);
  const bool channels_last = is_channels_last(grad);
  grad = with_layout(grad, channels_last);
  const Tensor out = empty(grad.sizes(), grad, channels_last);
  scale(grad_loss, grad, out);
  return out;
}

void hna_loss_backward_(Tensor grad_loss, Tensor grad) {
  check_overwritten(grad_loss, grad);
  // A loss that is not a term of another one: the gradient is what was stored.
  if (read_scalar(grad_loss) != 1) scale(grad_loss, grad, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ggnet, CPU, m) {
  m.impl("hna_loss", TORCH_BOX(&hna_loss));
  m.impl("hna_loss_backward", TORCH_BOX(&hna_loss_backward));
  m.impl("hna_loss_backward_", TORCH_BOX(&hna_loss_backward_));
}

}  // namespace ggnet
