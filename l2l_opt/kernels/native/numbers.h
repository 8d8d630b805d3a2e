// Numbers of parameters and gradients, of any of these types, wherever they lie.
#pragma once

#include "kernels.h"
#include "lstm.h"

namespace l2l_opt::ISA {

// The n coordinates of a spot, in the tensor's own order, by their distance from its first: run(k, offset).
template <typename Function>
INLINE void over_offsets(const Format& format, const Spot& spot, Function run) {
    int64_t index[MOST_AXES], offset = 0, rest = spot.at;
    const FormatAxis* axes = format.axes();
    for (int64_t axis = format.rank - 1; axis >= 0; --axis) {
        index[axis] = rest % axes[axis].size;
        rest /= axes[axis].size;
        offset += index[axis] * axes[axis].stride;
    }
    for (int k = 0; k < spot.n; ++k) {
        run(k, offset);
        for (int64_t axis = format.rank - 1; axis >= 0; --axis) {
            offset += axes[axis].stride;
            if (++index[axis] < axes[axis].size) break;
            offset -= index[axis] * axes[axis].stride;
            index[axis] = 0;
        }
    }
}

template <typename T>
TARGET static void read_as(float* tile, const Rows& numbers, const Format& format, const Spot& spot) {
    if (!format.rank) return gather<T>(tile, numbers, 0, 1, spot);
    T part[TILE] = {};
    const T* from = reinterpret_cast<const T*>(numbers.address);
    over_offsets(format, spot, [&](int k, int64_t offset) { part[k] = from[offset]; });
    for (int v = 0; v < V; ++v) store(tile + v * W, load(part + v * W));
}

template <typename T>
TARGET static void write_as(const Rows& numbers, const Format& format, const float* tile, const Spot& spot) {
    if (!format.rank) return scatter<T>(numbers, 0, tile, 1, spot);
    T part[TILE];
    T* to = reinterpret_cast<T*>(numbers.address);
    for (int v = 0; v < V; ++v) store(part + v * W, load(tile + v * W));
    over_offsets(format, spot, [&](int k, int64_t offset) { to[offset] = part[k]; });
}

// Of a tensor without a format: float32, one coordinate next to the other.
TARGET static void read(float* tile, const Rows& numbers, const Spot& spot) {
    const Format* format = format_of(numbers);
    if (format == nullptr) gather<float>(tile, numbers, 0, 1, spot);
    else if (format->type == Format::BFLOAT16) read_as<bfloat16>(tile, numbers, *format, spot);
    else if (format->type == Format::FLOAT16) read_as<float16>(tile, numbers, *format, spot);
    else read_as<float>(tile, numbers, *format, spot);
}

TARGET static void write(const Rows& numbers, const float* tile, const Spot& spot) {
    const Format* format = format_of(numbers);
    if (format == nullptr) scatter<float>(numbers, 0, tile, 1, spot);
    else if (format->type == Format::BFLOAT16) write_as<bfloat16>(numbers, *format, tile, spot);
    else if (format->type == Format::FLOAT16) write_as<float16>(numbers, *format, tile, spot);
    else write_as<float>(numbers, *format, tile, spot);
}

// Beyond this magnitude a number of the type is infinite.
inline float most_of(const Rows& numbers) {
    const Format* format = format_of(numbers);
    return format != nullptr && format->type == Format::FLOAT16 ? 65519.0f : 3.38e38f;
}

TARGET static void read_gradient(const StepCall& call, const StepTensor& tensor, const Spot& spot, vec* gradient) {
    alignas(64) float tile[TILE];
    read(tile, tensor.gradient, spot);
    for (int v = 0; v < V; ++v) gradient[v] = load(tile + v * W) * call.update.sign;
}

// param <- param + factor updates - decay param of a tile; whether it is finite, without which it stays as it is if guarded.
template <typename Tensor>
TARGET static bool add(const Update& update, const Tensor& tensor, const Spot& spot, const vec* updates, float factor) {
    alignas(64) float next[TILE];
    read(next, tensor.param, spot);
    const float most = most_of(tensor.param);
    ivec too_large = {};
    for (int v = 0; v < V; ++v) {
        vec p = load(next + v * W);
        p += updates[v] * factor - p * update.decay;
        too_large |= ~(magnitude(p) <= most);
        store(next + v * W, p);
    }
    if (update.guarded) {
        int32_t any = 0;
        for (int lane = 0; lane < W; ++lane) any |= too_large[lane];
        if (any) return false;
    }
    write(tensor.param, next, spot);
    return true;
}

}  // namespace l2l_opt::ISA
