// The step of all coordinates of all tensors and students, tile by tile.
#pragma once

#include "lstm.h"
#include "packed.h"
#include "threads.h"

namespace l2l_opt::ISA {

// The network on one tile: put inputs into `in`, run, read `outputs` and the states after, and keep these if they please.
struct Body {
    const Problem& problem;
    Workspace memory;
    float *in, *next_hidden, *next_cell, *outputs;

    explicit Body(const Problem& problem)
        : problem(problem), memory((problem.most_inputs() + 2 * problem.hidden * problem.layers + problem.outputs) * TILE) {
        in = memory.begin();
        next_hidden = in + problem.most_inputs() * TILE;
        next_cell = next_hidden + problem.hidden * problem.layers * TILE;
        outputs = next_cell + problem.hidden * problem.layers * TILE;
    }

    template <typename State>
    TARGET void run(const Packed& packed, const float* bias, const Rows& hidden, const Rows& cell, const Spot& spot) {
        const int64_t units = problem.hidden, particle = spot.particle;
        gather<State>(next_cell, cell, 0, units * problem.layers, spot);
        for (int64_t layer = 0; layer < problem.layers; ++layer) {
            const int64_t below = layer ? units : problem.inputs, row = layer * units;
            if (layer) std::memcpy(in, next_hidden + (row - units) * TILE, sizeof(float) * units * TILE);
            const bool remembers = hidden.address != nullptr;
            if (remembers) gather<State>(in + below * TILE, hidden, row, units, spot);
            ask_for_next<State>(hidden, row, units, spot);
            ask_for_next<State>(cell, row, units, spot);
            forward_layer(
                packed.by_unit(particle, layer), bias + 4 * row, units, in, below + units, remembers ? below + units : below,
                next_cell + row * TILE, next_hidden + row * TILE
            );
        }
        forward_readout(
            packed.readout(particle), bias + 4 * units * problem.layers, units, problem.outputs,
            next_hidden + (problem.layers - 1) * units * TILE, outputs
        );
    }

    // As the state has it.
    TARGET void run(const Packed& packed, const float* bias, const Rows& hidden, const Rows& cell, const Spot& spot) {
        if (problem.state_is_bfloat16) run<bfloat16>(packed, bias, hidden, cell, spot);
        else run<float>(packed, bias, hidden, cell, spot);
    }
    TARGET void keep(const Rows& hidden, const Rows& cell, const Spot& spot) {
        if (problem.state_is_bfloat16) keep<bfloat16>(hidden, cell, spot);
        else keep<float>(hidden, cell, spot);
    }

    // Outputs of the state that a run has left.
    TARGET void read_out(const Packed& packed, const float* bias, const Rows& hidden, const Spot& spot) {
        const int64_t units = problem.hidden, row = (problem.layers - 1) * units;
        if (problem.state_is_bfloat16) gather<bfloat16>(next_hidden, hidden, row, units, spot);
        else gather<float>(next_hidden, hidden, row, units, spot);
        forward_readout(
            packed.readout(spot.particle), bias + 4 * units * problem.layers, units, problem.outputs, next_hidden, outputs
        );
    }

    template <typename State>
    TARGET void keep(const Rows& hidden, const Rows& cell, const Spot& spot) {
        scatter<State>(hidden, 0, next_hidden, problem.hidden * problem.layers, spot);
        scatter<State>(cell, 0, next_cell, problem.hidden * problem.layers, spot);
    }
};

template <typename State>
TARGET static void forward_part(const Problem& problem, const Packed& packed, const ForwardTensor* tensors, Part part) {
    Body body(problem);
    for (Runs<ForwardTensor> run(problem, tensors, TILE, part); run.next();) {
        const ForwardTensor& tensor = *run.tensor;
        const float* bias = tensor.bias.at<float>(run.particle);
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            const Spot spot = run.spot(at);
            gather<float>(body.in, tensor.inputs, 0, problem.inputs, spot);
            body.run<State>(packed, bias, tensor.hidden, tensor.cell, spot);
            body.keep<State>(tensor.next_hidden, tensor.next_cell, spot);
            scatter<float>(tensor.outputs, 0, body.outputs, problem.outputs, spot);
        }
    }
}

template <typename Tensor, typename Function>
static void over_threads(const Problem& problem, const Tensor* tensors, Function run) {
    const int64_t tiles = problem.particles * tiles_of_particle(tensors, problem.tensors, TILE);
    in_parts(tiles, worthwhile(problem.threads, tiles, TILE), run);
}

static void forward(const Problem& problem, const Packed& packed, const ForwardTensor* tensors) {
    auto part = problem.state_is_bfloat16 ? forward_part<bfloat16> : forward_part<float>;
    over_threads(problem, tensors, [&](Part own, int) { part(problem, packed, tensors, own); });
}

}  // namespace l2l_opt::ISA
