#if defined(__x86_64__)
#define ISA avx2
#define TARGET __attribute__((target("avx2,fma")))
#define MIN _mm256_min_ps
#define MAX _mm256_max_ps
#define W 8
#define V 3
#include "instruction_set.h"
#endif
