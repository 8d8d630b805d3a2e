// Vectors of W floats and the few functions that an LSTM needs, for the instruction set named by ISA and TARGET.
#pragma once

#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "layouts.h"

namespace l2l_opt::ISA {

#define INLINE static inline __attribute__((always_inline)) TARGET

typedef float vec __attribute__((vector_size(4 * W)));
typedef int32_t ivec __attribute__((vector_size(4 * W)));
typedef uint16_t hvec __attribute__((vector_size(2 * W)));

INLINE vec load(const float* from) {
    vec value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
INLINE void store(float* to, vec value) { std::memcpy(to, &value, sizeof value); }
INLINE ivec bits_of(vec value) {
    ivec bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
INLINE vec of_bits(ivec bits) {
    vec value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// bfloat16 is the upper half of a float; rounded to nearest even, NaN kept by its highest bit.
INLINE vec load(const bfloat16* from) {
    hvec halves;
    std::memcpy(&halves, from, sizeof halves);
    return of_bits(__builtin_convertvector(halves, ivec) << 16);
}
INLINE ivec rounded_to_bfloat16(vec value) {
    ivec bits = bits_of(value);
    ivec rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return value == value ? rounded : (bits | 0x400000);
}
INLINE void store(bfloat16* to, vec value) {
    hvec halves = __builtin_convertvector((rounded_to_bfloat16(value) >> 16) & 0xffff, hvec);
    std::memcpy(to, &halves, sizeof halves);
}

// float16 has 10 bits of 23 and an exponent of 5; what it has of less than 2^-14 is a multiple of 2^-24. Made of numbers that
// are no such floats, since these may count as zero (FlushDenormals).
INLINE vec load(const float16* from) {
    hvec halves;
    std::memcpy(&halves, from, sizeof halves);
    ivec bits = __builtin_convertvector(halves, ivec), sign = (bits & 0x8000) << 16, size = (bits & 0x7fff) << 13;
    ivec small = bits_of(of_bits(size + (113 << 23)) - of_bits((ivec{} + 113) << 23));
    ivec usual = size + (112 << 23), beyond = size | 0x7f800000;
    ivec exponent = bits & 0x7c00;
    return of_bits(sign | (exponent == 0 ? small : exponent == 0x7c00 ? beyond : usual));
}
INLINE void store(float16* to, vec value) {
    ivec bits = bits_of(value), sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
    ivec small = bits_of(of_bits(size) + 0.5f) - 0x3f000000;
    ivec usual = (size - (112 << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
    ivec beyond = size > 0x7f800000 ? ivec{} + 0x7e00 : ivec{} + 0x7c00;
    ivec half = sign | (size < (113 << 23) ? small : size >= 0x47800000 ? beyond : usual);
    hvec halves = __builtin_convertvector(half & 0xffff, hvec);
    std::memcpy(to, &halves, sizeof halves);
}

INLINE vec all(float value) { return value - vec{}; }

// Written so that NaN passes through: an x86 minimum or maximum of which one is NaN is its second argument. One instruction
// where compilers make two of a comparison.
#ifdef MIN
INLINE vec at_most(vec value, float bound) { return (vec)MIN(all(bound), value); }
INLINE vec at_least(vec value, float bound) { return (vec)MAX(all(bound), value); }
#else
INLINE vec at_most(vec value, float bound) { return value > bound ? all(bound) : value; }
INLINE vec at_least(vec value, float bound) { return value < bound ? all(bound) : value; }
#endif
INLINE vec within(vec value, float bound) { return at_least(at_most(value, bound), -bound); }

INLINE float sum(vec value) {
    float total = 0;
    for (int lane = 0; lane < W; ++lane) total += value[lane];
    return total;
}

// e^x = 2^n e^r with |r| <= log(2) / 2, for -87 <= x <= 88; the constant rounds n to an integer in the low bits.
INLINE vec exponential(vec x) {
    const float round = 12582912.0f;
    vec shifted = x * 1.44269504f + round;
    vec n = shifted - round;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.38888889e-3f + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * of_bits((bits_of(shifted) << 23) + 0x3f800000);
}

// sigmoid(x) = 1 / this, where x was multiplied by GATE_SCALES: 1 + 2^x. Bounded so that three such denominators multiply
// without overflow, 2e-12 from the truth. 2^x = 2^n 2^r as above; minimax fit on |r| <= 1/2, relative error 7e-8.
INLINE vec sigmoid_denominator(vec x) {
    const float round = 12582912.0f;
    x = at_least(at_most(x, 39.0f), -116.0f);
    vec shifted = x + round, r = x - (shifted - round);
    vec p = r * 1.32764725e-3f + 9.67554096e-3f;
    p = p * r + 5.55071309e-2f;
    p = p * r + 0.240221202f;
    p = p * r + 0.693146944f;
    p = p * r + 1.00000012f;
    return p * of_bits((bits_of(shifted) << 23) + 0x3f800000) + 1.0f;
}

// log x = e log 2 + 2 artanh(s), s = (m - 1) / (m + 1), with x = 2^e m and m between the roots of 1/2 and 2; x > 0.
INLINE vec logarithm(vec x) {
    ivec e = (bits_of(x) - 0x3f3504f3) >> 23;
    vec m = of_bits(bits_of(x) - (e << 23));
    vec s = (m - 1.0f) / (m + 1.0f), y = s * s;
    vec p = y * (2.0f / 9) + (2.0f / 7);
    p = p * y + (2.0f / 5);
    p = p * y + (2.0f / 3);
    p = s * 2.0f + s * y * p;
    return x < 3.4e38f ? __builtin_convertvector(e, vec) * 0.693147181f + p : x;
}

struct Ratio {
    vec top, bottom;
};

// tanh(x) = x P(x^2) / Q(x^2): minimax fit on [0, 9], relative error 2e-8 before rounding, 4e-7 in float.
INLINE Ratio tanh_ratio(vec x) {
    x = within(x, 9.0f);
    vec y = x * x;
    vec p = y * 1.3354357619732582e-08f + 2.0608857084880583e-05f;
    p = p * y + 0.0034955742303282022f;
    p = p * y + 0.1338101327419281f;
    p = p * y + 1.0f;
    vec q = y * 7.77643151650409e-07f + 0.00032856123289093375f;
    q = q * y + 0.025876929983496666f;
    q = q * y + 0.46714329719543457f;
    q = q * y + 1.0f;
    return {x * p, q};
}

INLINE vec tanh(vec x) {
    Ratio ratio = tanh_ratio(x);
    return ratio.top / ratio.bottom;
}
INLINE vec magnitude(vec x) { return of_bits(bits_of(x) & 0x7fffffff); }
INLINE vec root(vec x) {
    vec result;
    for (int lane = 0; lane < W; ++lane) result[lane] = __builtin_sqrtf(x[lane]);
    return result;
}

}  // namespace l2l_opt::ISA
