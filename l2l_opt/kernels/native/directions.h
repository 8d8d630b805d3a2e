// Steps of a kind that leaves directions: updates are made when all coordinates of a tensor have theirs.
//
// A tensor is taken in blocks, so that no temporary grows with it. Where it has several, directions are made twice: for the
// matrix that whitens, then for updates, when the state of a recurrent network is there already and its read-out is all that
// is computed. Moments are kept the last time.
#pragma once

#include "numbers.h"
#include "step.h"
#include "whiten.h"

namespace l2l_opt::ISA {

constexpr int64_t MOST_DIRECTIONS = 1 << 22;  // of a block
constexpr int64_t VECTORS_AT_A_TIME = 16 * HEIGHT;

// What a step keeps from one tensor to the next.
struct Scratch {
    Whitening whitening;
    Uncleared directions;
    std::vector<Uncleared> results, packs;  // of each thread
};

// Lines of coordinates that lie next to one another, `apart` in the tensor; one after the other in a buffer.
struct Block {
    int64_t first, lines, length, apart;

    int64_t tiles_of_line() const { return (length + TILE - 1) / TILE; }
    int64_t tiles() const { return lines * tiles_of_line(); }
    // The coordinates of a tile in the tensor, and in the buffer.
    Spot in_tensor(int64_t tile, int64_t particle) const {
        const int64_t line = tile / tiles_of_line(), at = tile % tiles_of_line() * TILE;
        return {particle, first + line * apart + at, static_cast<int>(std::min<int64_t>(TILE, length - at))};
    }
    Spot in_buffer(int64_t tile) const {
        const int64_t line = tile / tiles_of_line(), at = tile % tiles_of_line() * TILE;
        return {0, line * length + at, static_cast<int>(std::min<int64_t>(TILE, length - at))};
    }
};

// A tensor as vectors of the length of its shorter side: rows of a tall matrix, columns of a wide one, numbers of a vector.
struct Vectors {
    int64_t count, side;
    bool wide;

    Vectors(int64_t coordinates, int64_t rows) {
        const int64_t columns = rows ? coordinates / rows : 1;
        rows = rows ? rows : coordinates;
        wide = rows <= columns && coordinates;
        side = wide ? rows : columns;
        count = wide ? columns : rows;
    }
    int64_t a_block() const { return std::max<int64_t>(MOST_DIRECTIONS / std::max<int64_t>(side, 1), HEIGHT); }
    Block block(int64_t first, int64_t number) const {
        if (!wide) return {first * side, 1, number * side, 0};
        if (number == count) return {0, 1, count * side, 0};
        return {first, side, number, count};
    }
    // Of such a block in its buffer, from the k-th vector on.
    View view(const float* buffer, int64_t number, int64_t k) const {
        return wide ? View{buffer + k, number, true} : View{buffer + k * side, side, false};
    }
};

template <typename Kind>
struct DirectedStep {
    const StepCall& call;
    const Packed& packed;
    const StepTensor& tensor;
    const int threads;
    const Kind& kind;
    const Shared& shared;
    const Heads& heads;
    Scratch& scratch;

    TARGET Flag move() {
        const Vectors vectors(tensor.count, kind.rows());
        const int64_t a_block = std::min(vectors.a_block(), std::max<int64_t>(vectors.count, 1));
        float* directions = scratch.directions.of(a_block * vectors.side);
        scratch.results.resize(threads);
        scratch.packs.resize(threads);
        const bool whitened = kind.rows() != 0;
        if (whitened) scratch.whitening.begin(vectors.side, threads, kind.rounds(vectors.side));
        bool moves = true;
        for (int64_t first = 0; first < vectors.count; first += a_block) {
            const int64_t number = std::min(a_block, vectors.count - first);
            moves &= find(vectors.block(first, number), directions, false, a_block >= vectors.count);
            if (whitened) scratch.whitening.add(vectors.view(directions, number, 0), number);
        }
        const float factor = -call.update.lr * heads.size;
        // With finite params and directions only an absurd lr can make an update that is not.
        if (!moves || (call.update.guarded && !(std::fabs(factor) < 1e30f))) return PARTLY_MOVED;
        const View mix = whitened ? kind.finish(scratch.whitening, heads, vectors.count) : View{};
        for (int64_t first = 0; first < vectors.count; first += a_block) {
            const int64_t number = std::min(a_block, vectors.count - first);
            if (a_block < vectors.count) find(vectors.block(first, number), directions, true, true);
            moves &= whitened ? add_whitened(vectors, first, number, directions, mix, factor)
                              : add_as_they_are(vectors.block(first, number), directions, factor);
        }
        return moves ? MOVED : PARTLY_MOVED;
    }

    // Directions of a block; network and its state first, unless they are made `again`. Whether they are finite.
    TARGET bool find(const Block& block, float* directions, bool again, bool last) const {
        std::vector<char> bad(threads, 0);
        in_parts(block.tiles(), worthwhile(threads, block.tiles(), TILE), [&](Part part, int thread) TARGET {
            Kind here = kind;
            here.keeps = last;
            Body body(call.problem);
            for (int64_t tile = part.first; tile < part.last; ++tile) {
                const Spot spot = block.in_tensor(tile, kind.particle);
                vec gradient[V], found[V], nothing = {};
                read_gradient(call, tensor, spot, gradient);
                here.features(tensor, shared, gradient, body.in, spot);
                if (again && tensor.hidden.address != nullptr) body.read_out(packed, shared.biases.data(), tensor.hidden, spot);
                else body.run(packed, shared.biases.data(), tensor.hidden, tensor.cell, spot);
                here.output(shared, body.outputs, found);
                alignas(64) float next[TILE];
                for (int v = 0; v < V; ++v) {
                    nothing += found[v] * 0.0f;
                    store(next + v * W, found[v]);
                }
                if (call.update.guarded && !(sum(nothing) == 0.0f)) bad[thread] = 1;
                else if (!again) body.keep(tensor.hidden, tensor.cell, spot);
                scatter<float>(buffer(directions), 0, next, 1, block.in_buffer(tile));
            }
        });
        return std::count(bad.begin(), bad.end(), 1) == 0;
    }

    TARGET bool add_as_they_are(const Block& block, const float* directions, float factor) const {
        std::vector<char> bad(threads, 0);
        in_parts(block.tiles(), worthwhile(threads, block.tiles(), TILE), [&](Part part, int thread) TARGET {
            if (!add_part(block, part, directions, factor)) bad[thread] = 1;
        });
        return std::count(bad.begin(), bad.end(), 1) == 0;
    }

    // Some vectors times the matrix that whitens, then as updates, again and again: what was multiplied is in a cache still.
    TARGET bool add_whitened(
        const Vectors& vectors, int64_t first, int64_t number, const float* directions, const View& mix, float factor
    ) const {
        std::vector<char> bad(threads, 0);
        const int64_t chunks = (number + VECTORS_AT_A_TIME - 1) / VECTORS_AT_A_TIME;
        in_parts(chunks, static_cast<int>(std::min<int64_t>(threads, chunks)), [&](Part part, int thread) TARGET {
            for (int64_t chunk = part.first; chunk < part.last; ++chunk) {
                const int64_t k = chunk * VECTORS_AT_A_TIME, here = std::min(VECTORS_AT_A_TIME, number - k);
                View own = vectors.view(directions, number, k);
                own.transposed = !own.transposed;
                const int64_t rows = vectors.wide ? vectors.side : here, columns = vectors.wide ? here : vectors.side;
                const int64_t width = in_multiples(columns, WIDTH);
                float* result = scratch.results[thread].of(in_multiples(rows, HEIGHT) * width);
                const Product product{
                    result, width, vectors.wide ? mix : own, vectors.wide ? own : mix, rows, columns, vectors.side, false, false, kind.rounds(vectors.side)
                };
                multiply_rows(product, 0, rows, scratch.packs[thread]);
                for (int64_t row = 1; row < rows; ++row) std::memmove(result + row * columns, result + row * width, sizeof(float) * columns);
                const Block block = vectors.block(first + k, here);
                if (!add_part(block, Part{0, block.tiles()}, result, factor)) bad[thread] = 1;
            }
        });
        return std::count(bad.begin(), bad.end(), 1) == 0;
    }

    TARGET bool add_part(const Block& block, Part part, const float* values, float factor) const {
        bool moves = true;
        for (int64_t tile = part.first; tile < part.last; ++tile) {
            alignas(64) float own[TILE];
            vec updates[V];
            gather<float>(own, buffer(values), 0, 1, block.in_buffer(tile));
            for (int v = 0; v < V; ++v) updates[v] = load(own + v * W);
            moves &= add(call.update, tensor, block.in_tensor(tile, kind.particle), updates, factor);
        }
        return moves;
    }

    static Rows buffer(const float* values) { return {const_cast<char*>(reinterpret_cast<const char*>(values)), 0, 0}; }
};

}  // namespace l2l_opt::ISA
