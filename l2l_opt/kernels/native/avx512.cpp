#if defined(__x86_64__)
#define ISA avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#if __has_include(<avx512bf16intrin.h>)
#define PAIRS_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")))
#endif
#define MIN _mm512_min_ps
#define MAX _mm512_max_ps
#define W 16
#define V 4
#include "instruction_set.h"
#endif
