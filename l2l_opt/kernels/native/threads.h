// The coordinates of all tensors and particles, divided into tiles, and the tiles among threads.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "layouts.h"

namespace l2l_opt {

// A share of all tiles, counted particle by particle and within a particle tensor by tensor.
struct Part {
    int64_t first, last;
};

template <typename Tensor>
int64_t tiles_of_particle(const Tensor* tensors, int64_t count, int64_t tile) {
    int64_t tiles = 0;
    for (int64_t index = 0; index < count; ++index) tiles += (tensors[index].count + tile - 1) / tile;
    return tiles;
}

// Coordinates of one tile, n of them from `at` on.
struct Spot {
    int64_t particle, at;
    int n;
};

// Goes through a part in runs of coordinates of one tensor of one particle.
template <typename Tensor>
struct Runs {
    const Problem& problem;
    const Tensor* tensors;
    int64_t tile;
    Part part;
    int64_t per_particle;
    const Tensor* tensor = nullptr;
    int64_t index = 0, particle = 0, begin = 0, end = 0;

    Runs(const Problem& problem, const Tensor* tensors, int64_t tile, Part part)
        : problem(problem), tensors(tensors), tile(tile), part(part), per_particle(tiles_of_particle(tensors, problem.tensors, tile)) {}

    bool next() {
        if (part.first >= part.last) return false;
        particle = part.first / per_particle;
        int64_t skip = part.first % per_particle, tiles = 0;
        for (index = 0;; ++index, skip -= tiles) {
            tiles = (tensors[index].count + tile - 1) / tile;
            if (skip < tiles) break;
        }
        tensor = tensors + index;
        const int64_t taken = std::min(tiles - skip, part.last - part.first);
        begin = skip * tile;
        end = std::min((skip + taken) * tile, tensor->count);
        part.first += taken;
        return true;
    }
    Spot spot(int64_t at) const { return {particle, at, static_cast<int>(std::min(tile, end - at))}; }
};

struct Workspace {
    std::vector<float> memory;
    explicit Workspace(int64_t floats) : memory(floats + 16, 0.0f) {}
    float* begin() {
        const auto address = reinterpret_cast<uintptr_t>(memory.data());
        return memory.data() + (64 - address % 64) % 64 / sizeof(float);
    }
};

// While it exists, numbers below 1e-38 count as zero in this thread. A rule that has learned saturates its gates, and
// derivatives through them get so small; a processor takes a hundred times as long over these as over others.
class FlushDenormals {
#if defined(__SSE__)
    unsigned before = __builtin_ia32_stmxcsr();

public:
    FlushDenormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;

public:
    FlushDenormals() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        __asm__ volatile("msr fpcr, %0" : : "r"(before | (uint64_t{1} << 24)));
    }
    ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
public:
    FlushDenormals() {}
#endif
};

// run(part, thread) for each thread's share; the caller's thread takes the first.
template <typename Function>
void in_parts(int64_t tiles, int threads, Function run) {
    std::vector<std::thread> others;
    auto own = [&](int thread) {
        FlushDenormals flush;
        run(Part{tiles * thread / threads, tiles * (thread + 1) / threads}, thread);
    };
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(own, thread);
    own(0);
    for (auto& other : others) other.join();
}

// Fewer coordinates a thread than this are not worth starting one.
constexpr int64_t LEAST_A_THREAD = 2048;

inline int worthwhile(int threads, int64_t tiles, int64_t tile) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, tiles * tile / LEAST_A_THREAD)));
}

// Tensors of fewer coordinates than this are stepped by a thread each.
constexpr int64_t LEAST_DIVIDED = 1 << 16;

// A step of each of so many tensors of each particle: run(tensor, particle, threads, thread) returns what became of it, and
// flags have the worst of a tensor's particles. Threads are numbered from 0 on.
template <typename Tensor, typename Function>
void step_each(
    const Tensor* tensors, int64_t count, int64_t particles, int64_t most_threads, int64_t tile, Flag* flags, Function run
) {
    const int64_t places = count * particles;
    const int threads = worthwhile(static_cast<int>(most_threads), particles * tiles_of_particle(tensors, count, tile), tile);
    std::vector<Flag> found(places, MOVED);
    auto is_divided = [&](int64_t place) { return threads > 1 && tensors[place / particles].count >= LEAST_DIVIDED; };
    auto step = [&](int64_t place, int own_threads, int thread) {
        found[place] = run(tensors[place / particles], place % particles, own_threads, thread);
    };
    std::atomic<int64_t> next{0};
    in_parts(threads, threads, [&](Part, int thread) {
        for (int64_t place = next++; place < places; place = next++)
            if (!is_divided(place)) step(place, 1, thread);
    });
    for (int64_t place = 0; place < places; ++place) {
        if (is_divided(place)) step(place, threads, 0);
        flags[place / particles] = std::max(flags[place / particles], found[place]);
    }
}

}  // namespace l2l_opt
