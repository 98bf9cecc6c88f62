#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../common/elementwise.h"
#include "hna_loss_check.h"

namespace ggnet {
namespace {

constexpr int64_t kLanes = 16;     // partial sums of a block
constexpr int64_t kBlock = 256;    // cells whose losses are kept until they are added
constexpr int64_t kAhead = 1024;   // cells that are asked for before they are needed
constexpr int64_t kChunk = 16384;  // cells that a thread takes at a time

template <class A>
struct Constants {
  A alpha, gamma, hard_weight;
  A edge;             // the logit of 1 - eps, where the clamp begins
  A bound;            // the same, no farther than exp_lane reaches
  bool paper_powers;  // alpha = 2 and gamma = 4: products instead of exp and log
};

template <class A>
Constants<A> constants(const HnaLossParams& p) {
  const double edge = std::log1p(-p.eps) - std::log(p.eps);
  return {static_cast<A>(p.alpha),
          static_cast<A>(p.gamma),
          static_cast<A>(std::exp2(p.beta)),
          static_cast<A>(edge),
          static_cast<A>(std::is_same_v<A, float> ? std::min(edge, 86.0) : edge),
          p.alpha == 2 && p.gamma == 4};
}

// v between low and high; NaN stays.
template <class A>
GGNET_INLINE A limit(A v, A low, A high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

// A cell's loss and its derivative by the logit x, at the target m.
//
// A positive is a negative seen from the other side: with z = -x for positives and z = x for all
// others, a = sigmoid(z) and s = -log(1 - a), the loss is w a^alpha s and its derivative by z is
// w a^alpha (alpha (1 - a) s + a). Clamping a to [eps, 1 - eps] is clamping z to their logits.
template <bool kPaperPowers, class A>
GGNET_INLINE void cell(A x, A m, const Constants<A>& c, A& loss, A& derivative) {
  const bool positive = m == A(1);
  const A side = positive ? A(-1) : A(1);
  const A z = limit(x * side, -c.bound, c.bound);
  const A e = exp_lane(-std::fabs(z));
  const A log1p_e = log1p_unit_lane(e);
  const A major = A(1) / (A(1) + e), minor = e * major;
  const A a = z >= A(0) ? major : minor;
  const A s = (z > A(0) ? z : A(0)) + log1p_e;  // NaN is in log1p_e

  const A rest = positive ? A(1) : A(1) - m;  // the weight of a positive is 1
  A power, weight;
  if constexpr (kPaperPowers) {
    power = a * a;
    weight = (rest * rest) * (rest * rest);
  } else {
    const A minus_log_a = (z < A(0) ? -z : A(0)) + log1p_e;
    power = exp_lane(limit(-c.alpha * minus_log_a, A(-80), A(0)));
    weight = exp_lane(limit(c.gamma * log_lane(rest), A(-80), A(80)));
    weight = rest == rest ? weight : rest;  // log_lane's result of NaN is not specified
  }
  weight = m == A(-1) ? c.hard_weight : weight;
  const A scale = weight * power;
  loss = scale * s;
  const A slope = scale * side * (c.alpha * ((A(1) - a) * s) + a);
  derivative = std::fabs(x) > c.edge ? A(0) : slope;
}

template <class T>
GGNET_INLINE void prefetch(const T* from) {
  for (int64_t i = 0; i < kBlock; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
}

// Sum of the losses of n cells, and kGrad: their derivatives times `scale`.
template <bool kPaperPowers, bool kGrad, class T, class M>
GGNET_INLINE double run_cells(const T* __restrict logits, const M* __restrict target,
                              T* __restrict grad, int64_t n,
                              const Constants<MathType<T>>* constants, MathType<T> scale) {
  using A = MathType<T>;
  const Constants<A> c = *constants;
  double sums[kLanes] = {};
  const auto block = [&](int64_t start, int64_t count) __attribute__((always_inline)) {
    A losses[kBlock];
    for (int64_t i = 0; i < count; ++i) {
      A derivative;
      cell<kPaperPowers>(to_math(logits[start + i]), static_cast<A>(to_math(target[start + i])), c,
                         losses[i], derivative);
      if constexpr (kGrad) grad[start + i] = from_math<T>(derivative * scale);
    }
    for (int64_t i = count; i < kBlock; ++i) losses[i] = A(0);
    A partial[kLanes] = {};
    for (int64_t i = 0; i < kBlock; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) partial[lane] += losses[i + lane];
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += partial[lane];
  };
  int64_t start = 0;
  for (; start + kBlock <= n; start += kBlock) {
    // The processor's own prefetching stops at every page.
    prefetch(logits + start + kAhead);
    prefetch(target + start + kAhead);
    block(start, kBlock);
  }
  if (start < n) block(start, n - start);
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

template <class M>
int32_t positives_kernel(const M* target, const HnaLossParams& p) {
  const Isa isa = cpu_isa();
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
  return static_cast<int32_t>(positives);
}

double inverse(int32_t positives) { return 1.0 / std::max(positives, 1); }

// Sum of the losses of all cells, and in `grad`, unless it is null, their derivatives times
// `scale`.
template <class T, class M>
double hna_loss_kernel(const T* logits, const M* target, T* grad, const HnaLossParams& p,
                       double scale) {
  using A = MathType<T>;
  const Isa isa = cpu_isa();
  const Constants<A> c = constants<A>(p);
  const int64_t total = p.batch * p.channels * p.cells;
  const int64_t chunks = (total + kChunk - 1) / kChunk;

  const auto run_range = [&](const M* m, int64_t start, int64_t n) {
    const auto body = [&]<bool kPaperPowers, bool kGrad>() {
      return run<run_cells<kPaperPowers, kGrad, T, M>>(
          isa, logits + start, m, kGrad ? grad + start : nullptr, n, &c, static_cast<A>(scale));
    };
    if (grad != nullptr)
      return c.paper_powers ? body.template operator()<true, true>()
                            : body.template operator()<false, true>();
    return c.paper_powers ? body.template operator()<true, false>()
                          : body.template operator()<false, false>();
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
  return sum;
}

// out = grad * factor; out may be grad.
template <class T>
void scale_kernel(const T* grad, T* out, int64_t n, double factor) {
  torch::stable::parallel_for(0, n, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      out[i] = from_math<T>(to_math(grad[i]) * static_cast<MathType<T>>(factor));
  });
}

// f(pointer to logits, pointer to target), of their types.
template <class F>
void with_types(const Tensor& logits, const Tensor& target, F f) {
  with_type(logits, "logits", [&]<class T>(T*) {
    const T* x = static_cast<const T*>(logits.const_data_ptr());
    if (target.scalar_type() == ScalarType::Float)
      f(x, static_cast<const float*>(target.const_data_ptr()));
    else
      f(x, static_cast<const T*>(target.const_data_ptr()));
  });
}

std::tuple<Tensor, Tensor, Tensor> hna_loss(Tensor logits, Tensor target, double alpha, double beta,
                                            double gamma, double eps, bool with_grad) {
  const HnaLossParams params = hna_loss_params(logits, target, alpha, beta, gamma, eps);
  const auto dtype = logits.scalar_type();
  const Tensor grad =
      with_grad ? empty(logits.sizes(), logits, params.channels_last) : empty({0}, logits);
  const bool f64 = dtype == ScalarType::Double;
  const Tensor loss = empty({}, logits, false, f64 ? dtype : ScalarType::Float);
  const Tensor positives = empty({}, logits, false, ScalarType::Int);
  with_types(logits, target, [&]<class T, class M>(const T* x, const M* m) {
    const int32_t count = positives_kernel(m, params);
    T* derivatives = with_grad ? static_cast<T*>(grad.mutable_data_ptr()) : nullptr;
    const double value =
        hna_loss_kernel(x, m, derivatives, params, inverse(count)) * inverse(count);
    *static_cast<int32_t*>(positives.mutable_data_ptr()) = count;
    if (f64)
      *static_cast<double*>(loss.mutable_data_ptr()) = value;
    else
      *static_cast<float*>(loss.mutable_data_ptr()) = static_cast<float>(value);
  });
  return {loss, grad, positives};
}

double read_scalar(const Tensor& grad_loss) {
  double value = 0;
  with_type(grad_loss, "grad_loss", [&]<class T>(T*) {
    value = to_math(*static_cast<const T*>(grad_loss.const_data_ptr()));
  });
  return value;
}

Tensor hna_loss_gradient(Tensor grad_loss, Tensor logits, Tensor target, Tensor positives,
                         double alpha, double beta, double gamma, double eps) {
  const HnaLossParams params = hna_loss_params(logits, target, alpha, beta, gamma, eps);
  check_grad_loss(grad_loss, logits);
  check_positives(positives, logits);
  const double scale =
      read_scalar(grad_loss) * inverse(*static_cast<const int32_t*>(positives.const_data_ptr()));
  const Tensor grad = empty(logits.sizes(), logits, params.channels_last);
  with_types(logits, target, [&]<class T, class M>(const T* x, const M* m) {
    hna_loss_kernel(x, m, static_cast<T*>(grad.mutable_data_ptr()), params, scale);
  });
  return grad;
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
  m.impl("hna_loss_gradient", TORCH_BOX(&hna_loss_gradient));
  m.impl("hna_loss_backward", TORCH_BOX(&hna_loss_backward));
  m.impl("hna_loss_backward_", TORCH_BOX(&hna_loss_backward_));
}

}  // namespace ggnet
