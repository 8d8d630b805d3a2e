// Mean squares by row and by column (moments.py) of tensors of any rank: where the coordinates of a tile have theirs, sums
// of squares, and what features are made of.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "lstm.h"

namespace l2l_opt::ISA {

constexpr int FACTORS = 3;
constexpr float LEAST_MEAN = 1e-9f, LEAST_SQUARE = 1e-30f;

// Some coordinates of a tile along the tensor's last axis, and where the first has its row's and its column's numbers.
struct Segment {
    int at, length;
    int64_t row, column;
};

// How a tensor's axes lie, as the caller lists them.
struct Axes {
    const AxesHead& head;
    const Axis* axis;

    explicit Axes(const char* address)
        : head(*reinterpret_cast<const AxesHead*>(address)), axis(reinterpret_cast<const Axis*>(address + sizeof(AxesHead))) {}

    const Axis& last() const { return axis[head.rank - 1]; }

    // Segments of n coordinates from `first` on, at most n.
    int segments(int64_t first, int n, Segment* found) const {
        const int last_axis = static_cast<int>(head.rank) - 1;
        int64_t index[MOST_AXES], rest = first, row = 0, column = 0;
        for (int a = last_axis; a >= 0; --a) {
            index[a] = rest % axis[a].size;
            rest /= axis[a].size;
            row += index[a] * axis[a].row_stride;
            column += index[a] * axis[a].column_stride;
        }
        int count = 0;
        for (int at = 0; at < n;) {
            const int length = static_cast<int>(std::min<int64_t>(last().size - index[last_axis], n - at));
            found[count++] = {at, length, row, column};
            at += length;
            // On to the beginning of the next line along the last axis.
            row -= index[last_axis] * last().row_stride;
            column -= index[last_axis] * last().column_stride;
            index[last_axis] = 0;
            for (int a = last_axis - 1; a >= 0; --a) {
                row += axis[a].row_stride;
                column += axis[a].column_stride;
                if (++index[a] < axis[a].size) break;
                row -= index[a] * axis[a].row_stride;
                column -= index[a] * axis[a].column_stride;
                index[a] = 0;
            }
        }
        return count;
    }
};

// Numbers of rows or of columns, one for each coordinate of a tile; beyond its coordinates zero.
TARGET static void spread(float* tile, const float* from, int64_t stride, const Segment* segments, int count, bool of_rows, int n) {
    for (int s = 0; s < count; ++s) {
        const Segment& own = segments[s];
        const float* first = from + (of_rows ? own.row : own.column);
        float* to = tile + own.at;
        if (stride == 1) std::memcpy(to, first, sizeof(float) * own.length);
        else if (stride == 0) std::fill(to, to + own.length, *first);
        else
            for (int k = 0; k < own.length; ++k) to[k] = first[k * stride];
    }
    if (n < TILE) std::memset(tile + n, 0, sizeof(float) * (TILE - n));
}

// sums[where a coordinate has its row's or its column's] += its square.
TARGET static void add_squares(double* sums, const float* squares, int64_t stride, const Segment* segments, int count, bool of_rows) {
    for (int s = 0; s < count; ++s) {
        const Segment& own = segments[s];
        double* to = sums + (of_rows ? own.row : own.column);
        const float* from = squares + own.at;
        if (stride == 0) {
            vec lanes = {};
            int k = 0;
            for (; k + W <= own.length; k += W) lanes += load(from + k);
            double total = sum(lanes);
            for (; k < own.length; ++k) total += from[k];
            *to += total;
        } else if (stride == 1) {
            for (int k = 0; k < own.length; ++k) to[k] += from[k];
        } else {
            for (int k = 0; k < own.length; ++k) to[k * stride] += from[k];
        }
    }
}

// What the rows or the columns of a tensor show: mean squares, one over their roots, and the factor of the preconditioner.
struct Side {
    float* squares = nullptr;
    std::vector<float> over_root, factor;
    std::vector<double> sums;
    int64_t count = 0, length = 0;  // of them; coordinates of each

    void start(float* own, int64_t own_count, int64_t own_length) {
        squares = own;
        count = own_count;
        length = own_length;
        sums.assign(count, 0.0);
        over_root.resize(FACTORS * count);
        factor.resize(FACTORS * count);
    }
    void average(const float* betas) {
        for (int k = 0; k < FACTORS; ++k)
            for (int64_t e = 0; e < count; ++e) {
                float& own = squares[k * count + e];
                const float mean = static_cast<float>(sums[e] / static_cast<double>(length)) + LEAST_SQUARE;
                own = betas[k] * own + (1 - betas[k]) * mean;
                over_root[k * count + e] = 1 / std::sqrt(own + 1e-8f);
            }
    }
    // Over all coordinates, of a feature that is one for each row or column.
    double sum_of_squares(const float* values) const {
        double total = 0;
        for (int64_t e = 0; e < count; ++e) total += static_cast<double>(values[e]) * values[e];
        return total * static_cast<double>(length);
    }
};

struct Factored {
    Side rows, columns;

    void start(const Axes& axes, float* row_squares, float* column_squares) {
        rows.start(row_squares, axes.head.rows, axes.head.longer);
        columns.start(column_squares, axes.head.columns, axes.head.shorter);
    }
    // Takes in the sums of squares, then makes the factors: of rows relative to their mean along the shorter axis.
    void finish(const Axes& axes, const float* betas) {
        rows.average(betas);
        columns.average(betas);
        const int64_t length = axes.head.shorter, inner = axes.head.inner, outer = rows.count / (length * inner);
        for (int64_t k = 0; k < FACTORS * outer; ++k)
            for (int64_t i = 0; i < inner; ++i) {
                const float* own = rows.squares + k * length * inner + i;
                double total = 0;
                for (int64_t e = 0; e < length; ++e) total += own[e * inner];
                const float mean = static_cast<float>(total / static_cast<double>(length)) + LEAST_MEAN;
                float* factor = rows.factor.data() + k * length * inner + i;
                for (int64_t e = 0; e < length; ++e)
                    factor[e * inner] = 1 / std::sqrt(std::max(own[e * inner] / mean, LEAST_MEAN));
            }
        for (int64_t e = 0; e < FACTORS * columns.count; ++e)
            columns.factor[e] = 1 / std::sqrt(std::max(columns.squares[e], LEAST_MEAN));
    }
};

}  // namespace l2l_opt::ISA
