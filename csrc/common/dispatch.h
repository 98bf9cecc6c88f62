// Which instruction set the CPU kernels run with, decided at run time: a library built anywhere
// runs anywhere.
#pragma once

#ifdef __x86_64__
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

namespace ggnet {

enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmxBf16 };

inline constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512", "avx512_bf16",
                                            "amx_bf16"};

#ifdef __x86_64__
// Whether the CPU has AMX's products of bfloat16, and the kernel lets this process use them: on
// Linux it has to be asked, as a thread's state grows by 8 KB.
inline bool amx_bf16_allowed() {
#ifdef __linux__
  constexpr unsigned kTile = 1u << 24, kBf16 = 1u << 22;  // of EDX
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTile) && (d & kBf16) &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

inline bool cpu_supports(Isa isa) {
#if defined(__x86_64__) && defined(GGNET_EMULATE_AVX512)
  // A test build: the AVX-512 kernels are compiled for AVX2, lanes and tiles as on AVX-512.
  return isa == Isa::kPortable || __builtin_cpu_supports("avx2");
#elif defined(__x86_64__)
  if (isa == Isa::kPortable) return true;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (isa == Isa::kAvx2) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (isa == Isa::kAvx512) return avx512;
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  return isa == Isa::kAmxBf16 ? bf16 && amx_bf16_allowed() : bf16;
#else
  return isa == Isa::kPortable;
#endif
}

// The best instruction set of this CPU, or the one that GGNET_CPU_ISA names. Read at every call,
// so that one process can compare the paths.
inline Isa cpu_isa() {
  static const Isa best = [] {
    Isa isa = Isa::kPortable;
    for (Isa next : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmxBf16})
      if (cpu_supports(next)) isa = next;
    return isa;
  }();
  const char* name = std::getenv("GGNET_CPU_ISA");
  if (name == nullptr || *name == '\0') return best;
  for (int i = 0; i < int(std::size(kIsaNames)); ++i) {
    if (name != std::string(kIsaNames[i])) continue;
    if (cpu_supports(static_cast<Isa>(i))) return static_cast<Isa>(i);
    throw std::runtime_error(std::string("GGNET_CPU_ISA=") + name +
                             ": this CPU lacks these instructions; the best it has is " +
                             kIsaNames[static_cast<int>(best)] +
                             ". Unset GGNET_CPU_ISA or name one that it has");
  }
  throw std::runtime_error(std::string("GGNET_CPU_ISA=") + name +
                           ": unknown; expected portable, avx2, avx512, avx512_bf16 or amx_bf16");
}

}  // namespace ggnet
