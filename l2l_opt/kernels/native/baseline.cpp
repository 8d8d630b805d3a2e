#define ISA baseline
#define TARGET
#define W 4
#if defined(__x86_64__)
#define V 2
#define MIN _mm_min_ps
#define MAX _mm_max_ps
#else
#define V 4
#endif
#include "instruction_set.h"
