#if defined(__x86_64__)
#define ISA avx2
#define TARGET __attribute__((target("avx2,fma")))
#define W 8
#define V 3
#include "instruction_set.h"
#endif
