// Whitening: whitening.py, without a temporary as long as the matrix.
#pragma once

#include "product.h"

namespace l2l_opt::ISA {

// The symmetric matrix [side][side] that makes a whitened matrix of one, by way of the products of its vectors: its columns
// where it is wide, its rows where it is tall.
class Whitening {
public:
    // Before the vectors of a matrix of which so many numbers make one. threads: of its products; rounds: what they multiply.
    void begin(int64_t side, int threads, bool rounds) {
        side_ = side;
        rounds_ = rounds;
        width_ = in_multiples(side, WIDTH);
        packs_.resize(std::max<size_t>(packs_.size(), threads));
        packs_.resize(threads);
        const int64_t size = in_multiples(side, HEIGHT) * width_;
        gram_ = memory_.of(4 * size);
        total_ = gram_ + size;
        rest_ = total_ + size;
        product_ = rest_ + size;
        begun_ = false;
    }

    // Takes in `count` of the vectors, (k, i) the i-th number of the k-th.
    TARGET void add(const View& vectors, int64_t count) {
        multiply({gram_, width_, vectors, vectors, side_, side_, count, begun_, true, rounds_}, packs_);
        begun_ = true;
    }

    // What multiplies the vectors: share scale P(G / |G|) / root |G| + (1 - share), G the sum of their products and |G| its
    // trace. A factor of P is kept as its diagonal a and the rest. Symmetric but for rounding: in float32 to the last bit.
    TARGET View finish(const float* steps, int64_t num_steps, float scale, float share) {
        mirror(gram_);
        double square = 0;
        for (int64_t i = 0; i < side_; ++i) square += gram_[i * width_ + i];
        const float norm2 = std::max(static_cast<float>(square), 1e-8f);
        combine(gram_, 1 / norm2, nullptr, 0, 0);
        for (int64_t step = 0; step < num_steps; ++step) {
            const float a = steps[3 * step], b = steps[3 * step + 1], c = steps[3 * step + 2];
            become_product(rest_, gram_, gram_, true);
            combine(rest_, c, gram_, b, 0);
            if (step) {
                become_product(product_, rest_, total_, !rounds_);
                combine(product_, 1, total_, a, 0);
                std::swap(product_, total_);
            } else {
                std::memcpy(total_, rest_, sizeof(float) * side_ * width_);
                combine(total_, 1, nullptr, 0, a);
            }
            if (step + 1 < num_steps) {
                become_product(product_, rest_, gram_, true);
                combine(product_, 1, gram_, a, 0);
                become_product(gram_, rest_, product_, true);
                combine(gram_, 1, product_, a, 0);
            }
        }
        combine(total_, share * scale / std::sqrt(norm2), nullptr, 0, 1 - share);
        return {total_, width_, rounds_};
    }

private:
    // Polynomials of one symmetric matrix commute, so that their products are symmetric: half of one is enough. Rounding takes
    // that away in proportion to what is multiplied, so a diagonal, which is far larger than the rest, is added instead. In
    // bfloat16 the whole of the last ones is needed: their errors are small where what they multiply is, and halves' are not.
    TARGET void become_product(float* c, const float* a, const float* b, bool half) {
        multiply({c, width_, {a, width_, false}, {b, width_, false}, side_, side_, side_, false, half, rounds_}, packs_);
        if (half) mirror(c);
    }

    // The half above the diagonal of what is below it.
    TARGET void mirror(float* c) const {
        for (int64_t i = 0; i < side_; i += 4)
            for (int64_t j = 0; j <= i; j += 4)
                if (i + 4 <= in_multiples(side_, HEIGHT)) transpose(c + i * width_ + j, width_, c + j * width_ + i, width_);
                else mirror_corner(c, i, j);
    }
    TARGET void mirror_corner(float* c, int64_t i, int64_t j) const {
        for (int64_t row = i; row < side_; ++row)
            for (int64_t column = j; column < std::min(j + 4, row); ++column) c[column * width_ + row] = c[row * width_ + column];
    }

    // x <- factor x + other_factor other + diagonal
    TARGET void combine(float* x, float factor, const float* other, float other_factor, float diagonal) const {
        for (int64_t i = 0; i < side_; ++i) {
            float* row = x + i * width_;
            for (int64_t j = 0; j < width_; j += W) {
                vec value = load(row + j) * factor;
                store(row + j, other == nullptr ? value : value + load(other + i * width_ + j) * other_factor);
            }
            row[i] += diagonal;
        }
    }

    int64_t side_ = 0, width_ = 0;
    bool begun_ = false, rounds_ = false;
    float *gram_ = nullptr, *total_ = nullptr, *rest_ = nullptr, *product_ = nullptr;
    Uncleared memory_;
    std::vector<Uncleared> packs_;
};

}  // namespace l2l_opt::ISA
